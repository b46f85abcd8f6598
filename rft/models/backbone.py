"""One set of base weights, many roles: policy, critic and reward model are adapters and heads on it.

The reference is the base with adapters off. With full fine-tuning every role has its own copy instead.
Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``H`` hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rft.budget import Usage
from rft.models.adapters import add_adapters
from rft.models.ahead import Ahead, Latest
from rft.models.attention import Packing, longest_packed, packed
from rft.models.decoder import decoder_layers, logits_of
from rft.models.flops import DecoderFlops
from rft.models.mixed import ShorterWeights
from rft.models.pretrained import LoraConfig
from rft.models.trunk import Trunk, trunk_depth
from rft.ops.logprobs import token_entropy, token_logprobs
from rft.types import Sequences, to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Role(str, Enum):
    """What a forward pass is for."""

    policy = "policy"
    reference = "reference"
    reward = "reward"
    critic = "critic"


class PoolingEnum(str, Enum):
    """How a reward model makes one score of its head's outputs."""

    last = "last"
    mean = "mean"


_HEADS = (Role.reward, Role.critic)
WORTH_PACKING = 7 / 8  # of a batch's tokens left, above which padding and repeated prompts are computed along


def _passed(seq: Sequences) -> tuple[float, float]:
    """Counted prompt and response tokens, and those that each sees, both summed."""
    per_row = (seq.prompt_mask.sum(-1) + seq.lengths).double()
    return float(per_row.sum()), float((per_row**2).sum())


class Backbone(nn.Module):
    """A causal language model that plays several roles.

    Args:
        model: the start policy, whose weights are the reference.
        tokenizer: gives the EOS and pad tokens.
        lora: adapters, or ``enabled=False`` for a full copy of the weights for each role.
        roles: the roles to make besides the reference.
        trained: the roles whose parameters require gradients.
        seed: of the adapters' and heads' start.
        critic_on_policy: the critic is a head on the policy's hidden states and no adapter or copy of its own.
        reference: the reference is passed. If not, copies of all weights may take its memory.

    Every pass adds its operations to ``usage``, its backward the rest and the tokens that the policy is trained on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        lora: LoraConfig,
        roles: Collection[Role],
        trained: Collection[Role] = (),
        seed: int = 0,
        *,
        critic_on_policy: bool = False,
        reference: bool = True,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.lora = lora
        self.roles = tuple(r for r in Role if r in roles and r is not Role.reference)
        self.trained = tuple(r for r in self.roles if r in trained)
        self.critic_on_policy, self._has_reference = critic_on_policy, reference or lora.enabled
        self._bodies = tuple(r for r in self.roles if r is not Role.critic or not critic_on_policy)
        self.base = model.requires_grad_(False)
        self.copies = nn.ModuleDict()
        self._shorter: dict[Role, ShorterWeights] = {}
        self._layers: list[tuple[str, Any]] = []
        self._decoder_layers = decoder_layers(model)
        self.trunk = Trunk(self._decoder_layers, trunk_depth(len(self._decoder_layers), lora))
        with self.trunk.seen():
            self._logits = logits_of(model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if lora.enabled:
                self._layers = add_adapters(model, lora, [r.value for r in self._bodies], self.trunk.below)
            else:
                self._add_copies(None if reference else self.base)
            self._hidden = int(model.config.get_text_config().hidden_size)
            self.heads = nn.ModuleDict({r.value: nn.Linear(self._hidden, 1) for r in self.roles if r in _HEADS})
            for head in self.heads.values():
                nn.init.normal_(head.weight, std=1 / (self._hidden + 1))  # type: ignore[arg-type]
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        wanted = [(p, self._wants_grad(name)) for name, p in self.named_parameters()]
        self.flops = DecoderFlops.of(model, self._decoder_layers)
        self.usage = Usage()
        self._longest_packed = longest_packed(model, len(self._decoder_layers))
        changing = [p for p, trained in wanted if trained]
        self.ahead, self._latest = Ahead(changing), Latest(changing)
        self.watch: Callable[[Role, Sequences, Tensor], None] | None = None
        """Is given all log-probabilities, [B, R] each, without gradient: for who measures training from outside."""
        self._activate(Role.reference)
        if not all(layer.disable_adapters for _, layer in self._layers):
            raise RuntimeError(
                "peft's layers do not follow the role; this version of peft is not known: take an older one"
            )
        for parameter, trains in wanted:
            parameter.requires_grad_(trains)

    def _add_copies(self, memory: PreTrainedModel | None) -> None:
        """A copy of all weights for each role; the first that is trained multiplies in a model's memory, if given."""
        for role in self._bodies:
            weights, trained = copy.deepcopy(self.base), role in self.trained
            self.copies[role.value] = weights.float() if trained else weights
            if trained and torch.finfo(self.base.dtype).bits < 32:
                self._shorter[role] = ShorterWeights(weights, self.base.dtype, memory)
                memory = None

    def _wants_grad(self, name: str) -> bool:
        parts = name.split(".")
        if ".lora_" in name:
            return any(role.value in parts for role in self.trained)
        return parts[0] in ("copies", "heads") and parts[1] in [role.value for role in self.trained]

    def _activate(self, role: Role) -> None:
        # Not by peft's switches, which turn requires_grad of all adapters on and off: a pass would wait for them.
        for _, layer in self._layers:
            layer._disable_adapters = role is Role.reference
            if role is not Role.reference:
                layer._active_adapter = [role.value]

    @contextmanager
    def _as(self, role: Role) -> Iterator[PreTrainedModel]:
        """The model that plays a role.

        Raises:
            RuntimeError: for a reference that was not asked for.
        """
        if role is Role.reference and not self._has_reference:
            raise RuntimeError(
                "the reference was passed on a backbone that was made without one; a reward source that passes it "
                "declares reads_reference = True, others make their backbone with reference=True"
            )
        if self._layers:
            self._activate(role)
        with self._shorter[role].in_place() if role in self._shorter else nullcontext():
            yield self.copies[role.value] if role.value in self.copies else self.base  # type: ignore[misc]

    @property
    def eos_id(self) -> int:
        """Token that ends a response."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """Token that fills up."""
        return int(self.tokenizer.pad_token_id)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.base.parameters()).device

    @property
    def kept_of_token(self) -> int:
        """Hidden width times the layers that a backward goes through: what it keeps of a token is a multiple of it.

        Adapters of a critic count beside the policy's. Roles with all weights of their own do not: there a step may
        keep more, as it has more weights and moments.
        """
        trained = sum(role in self.trained for role in self._bodies) if self.lora.enabled else 1
        return self._hidden * (len(self._decoder_layers) - self.trunk.depth) * max(trained, 1)

    def parameters_of(self, role: Role) -> list[nn.Parameter]:
        """The trainable parameters of a role."""
        return [p for n, p in self.named_parameters() if p.requires_grad and role.value in n.split(".")]

    @torch.no_grad()
    def with_trunk(self, seq: Sequences, batch_size: int = 64) -> Sequences:
        """The sequences with the output of the layers below the first adapter, which no role and no step changes.

        Every later pass over them starts from there. They are returned as they are without such layers, or if they have
        it.
        """
        if self.trunk.depth == 0 or len(seq) == 0 or seq.trunk is not None:
            return seq
        with self.trunk.alone() as parts:
            for start in range(0, len(seq), batch_size):
                part = to_device(seq[slice(start, start + batch_size)], self.device)
                packing, role = self._packing(part), Role.reference
                self._states(role, part, packing)
                self.usage.flops += self.flops.passing(*_passed(part), role.value, last=self.trunk.depth)
                if packing is not None:
                    parts[-1] = packing.spread(parts[-1])
        return replace(seq, trunk=torch.cat(parts).to(seq.prompt_ids.device))

    def hidden(self, role: Role, seq: Sequences) -> Tensor:
        """Last hidden states [B, P + R, H], counted in ``usage``."""
        return self._read("hidden", role, seq)[0]

    def _read(self, reader: str, role: Role, seq: Sequences) -> tuple[Tensor, Tensor]:
        """Last hidden states and the vocabulary projection, for one of their readers; counted if they are made."""

        def make() -> tuple[Tensor, Tensor]:
            made = self._states(role, seq, self._packing(seq))
            self._count(role, seq, made[0])
            return made

        return self._latest.read(reader, seq, make) if role is Role.policy else make()

    def _count(self, role: Role, seq: Sequences, hidden: Tensor) -> None:
        passed, first = _passed(seq), self.trunk.depth if seq.trunk is not None else 0
        self.usage.flops += self.flops.passing(*passed, role.value, first)
        back = self.flops.back(*passed, role.value, self.trunk.depth, full=not self.lora.enabled)
        self._count_backward(role, hidden, back, passed[0] if role is Role.policy else 0.0)

    def _count_backward(self, role: Role, made: Tensor, flops: float, trained_tokens: float = 0.0) -> None:
        """Count when a gradient comes: what is made ahead of a loss may never be learned from."""
        usage = self.usage  # not this object: it keeps the graph, in which nobody sees that the hook keeps it

        def count(_: Tensor) -> None:
            usage.flops += flops
            usage.trained_tokens += trained_tokens

        if made.requires_grad and role in self.trained:
            made.register_hook(count)

    def _packing(self, seq: Sequences) -> Packing | None:
        """How to leave out padding and the repeats of a prompt, where it is worth it."""
        return packed(seq, self._longest_packed, WORTH_PACKING)

    def _states(self, role: Role, seq: Sequences, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, P + R, H], and the vocabulary projection [V, H].

        Padding on the right needs no mask under causal attention; the mask is given only where a prompt is padded
        on the left.
        """
        ids = torch.cat([seq.prompt_ids, seq.response_ids], 1)
        if packing is not None:
            trunk = None if seq.trunk is None else packing.pack(seq.trunk)
            where = {"attention_mask": packing.mask_B1TT, "position_ids": packing.positions_1N}
            with self._as(role) as model, self.trunk.given(trunk), packing.attending():
                out = model.get_decoder()(input_ids=packing.pack(ids), use_cache=False, **where)
                return packing.spread(out.last_hidden_state), model.get_output_embeddings().weight
        where = {}
        if not bool(seq.prompt_mask.all()):
            mask = torch.cat([seq.prompt_mask, torch.ones_like(seq.response_mask)], 1).long()
            where = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        with self._as(role) as model, self.trunk.given(seq.trunk):
            out = model.get_decoder()(input_ids=ids, use_cache=False, **where)
            return out.last_hidden_state, model.get_output_embeddings().weight

    def _of_tokens(self, reader: str, role: Role, seq: Sequences, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What is made of the hidden states before each response token [B, R, H] and the projection [V, H]."""
        hidden, head = self._read(reader, role, seq)
        made, once = make(hidden[:, seq.prompt_ids.shape[1] - 1 : -1], head), self.flops.head(int(seq.lengths.sum()))
        self.usage.flops += once
        # The gradients of its inputs and, if it is trained, of its weights.
        self._count_backward(role, made, once if self.lora.enabled else 2 * once)
        return made

    def logprobs(self, role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        """log p of each counted response token given what precedes it, zero elsewhere. Shape [B, R]."""

        def of(hidden: Tensor, head: Tensor) -> Tensor:
            return token_logprobs(hidden, head, seq.response_ids, seq.response_mask, *self._logits.at(temperature))

        make = partial(self._of_tokens, "log-probs", role, seq, of)
        logprobs = self.ahead.once(f"log-probs of {role.value} at {temperature}", seq, make)
        if self.watch is not None:
            self.watch(role, seq, logprobs.detach())
        return logprobs

    def entropy(self, role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        """Entropy of the distribution of each counted response token, nats, zero elsewhere. Shape [B, R]."""

        def of(hidden: Tensor, head: Tensor) -> Tensor:
            return token_entropy(hidden, head, seq.response_mask, *self._logits.at(temperature))

        return self._of_tokens("entropy", role, seq, of)

    def values(self, seq: Sequences) -> Tensor:
        """The critic's value of the state before each response token. Shape [B, R]."""

        def make() -> Tensor:
            role = Role.policy if self.critic_on_policy else Role.critic
            hidden = self._read("values", role, seq)[0][:, seq.prompt_ids.shape[1] - 1 : -1]
            head = self.heads[Role.critic.value]
            values: Tensor = head(hidden.to(head.weight.dtype))[..., 0] * seq.response_mask  # type: ignore[arg-type]
            return values

        return self.ahead.once("values", seq, make)

    def scores(self, seq: Sequences, pooling: PoolingEnum = PoolingEnum.last) -> Tensor:
        """The reward model's raw score of each prompt with its response. Shape [B].

        ``last``: the head at the last counted token. ``mean``: the head's mean over all counted tokens, prompt and
        response.
        """
        hidden, head = self.hidden(Role.reward, seq), self.heads[Role.reward.value]
        if pooling is PoolingEnum.mean:
            mask = seq.counted
            per_token: Tensor = head(hidden.to(head.weight.dtype))[..., 0]  # type: ignore[arg-type]
            return per_token.where(mask, 0.0).sum(-1) / mask.sum(-1)
        last = seq.prompt_ids.shape[1] + seq.lengths - 1
        at_end = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        scores: Tensor = head(at_end.to(head.weight.dtype))[..., 0]  # type: ignore[arg-type]
        return scores

    def role_state(self, role: Role) -> dict[str, Tensor]:
        """The parameters of a role, with the role's name left out of their names, so that another can take them."""
        return {
            ".".join("role" if part == role.value else part for part in name.split(".")): p.detach().cpu().contiguous()
            for name, p in self.named_parameters()
            if role.value in name.split(".") and name.split(".")[0] in ("base", "copies", "heads")
        }

    def load_role(self, role: Role, state: dict[str, Tensor]) -> None:
        """Set a role's parameters from ``role_state`` of the same or another role; missing heads stay as they are."""
        own = {
            ".".join("role" if part == role.value else part for part in name.split(".")): p
            for name, p in self.named_parameters()
            if role.value in name.split(".")
        }
        unknown = sorted(set(state) - set(own))
        if unknown:
            raise ValueError(f"state has parameters that role {role.value} lacks: {unknown[:3]}; same model and LoRA?")
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    @torch.no_grad()
    def merged_into(self, target: PreTrainedModel, role: Role) -> None:
        """Give a plain copy of the base model the role's weights, adapters merged, each in memory of its own.

        What no adapter touches is left as it is.
        """
        if not self._layers:
            weights = dict(self.copies[role.value].named_parameters())
            for name, parameter in target.named_parameters():
                parameter.data = weights[name].detach().to(parameter.dtype, copy=True)
            return
        modules = dict(target.named_modules())
        for name, layer in self._layers:
            base: Any = layer.get_base_layer()
            merged = torch.add(base.weight, layer.get_delta_weight(role.value))  # float32, in the base's layout
            modules[name].weight.data = merged.to(base.weight.dtype)
