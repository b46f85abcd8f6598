"""The floor: the matrix work that a step cannot do without, in plain torch on one set of bf16 weights.

What each case holds:

- ``decode``: the matrix products of the prefill of each different prompt once and of every decode step, with joined
  query, key and value, and joined gate and up matrices; the head for the last position. No attention, norms, cache or
  sampling. ``decode_ending``: in every step the rows that have not ended, by lengths of the model's own responses.
- ``update``, of every training case: one forward of all sequences, the head on the response tokens only, the mean
  negative log-likelihood in place of the algorithm's loss, its backward, AdamW as torch has it. With all weights
  trained AdamW moves bf16 weights with bf16 state. With adapters the backward ends at the lowest of them, and AdamW
  moves them alone.
- ``reference`` (``dpo``, ``grpo``, ``rloo``, ``ppo``): a forward without gradient, the head on the response tokens.
- ``reward`` (``ppo``): a forward without gradient, one number at the last token.
- ``trunk``, with adapters in the upper layers only: the layers below them, once for all of the above; not in
  ``dpo_kept``, which keeps their output as it keeps the reference.
- ``reward`` as a case: one update with a scalar head at the last token in place of the vocabulary.
- ``ppo``: policy and critic share a backbone, so its update is one forward and one backward with a scalar head beside
  the vocabulary. Told apart, measured once before the first step and not counted: ``own_critic``, the update of a
  critic with a backbone of its own, which the other two sides have.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from experiments.benchmarks import turns
from experiments.benchmarks.cases import ADAPTER_ALPHA, ADAPTER_RANK, BY_NAME, LR, Job, adapted_layers
from experiments.benchmarks.turns import Turns


class Adapted(nn.Module):
    """W x, or W x + α/r · B A x with trained A and B, in the type of W."""

    on = True

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        like = {"dtype": base.weight.dtype}
        self.lora_a = nn.Parameter(torch.randn(ADAPTER_RANK, base.in_features, **like) / base.in_features)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, ADAPTER_RANK, **like))

    def forward(self, x: Tensor) -> Tensor:
        """Of the last dimension."""
        y = self.base(x)
        if not Adapted.on:
            return y
        low = functional.linear(x, self.lora_a)
        return y + functional.linear(low, self.lora_b) * (ADAPTER_ALPHA / ADAPTER_RANK)


class Llama:
    """The parts of a Llama. Its layers `below` the lowest adapter are passed apart from those above."""

    def __init__(self, job: Job) -> None:
        logging.disable_progress_bar()
        loaded = AutoModelForCausalLM.from_pretrained(job.known.folder, dtype=torch.bfloat16)
        self.decoder, self.head = loaded.model, loaded.lm_head.weight
        self.hidden = int(loaded.config.hidden_size)
        self.below = adapted_layers(len(self.decoder.layers), job.model, job.lora)
        self.scalar = nn.Parameter(torch.zeros(1, self.hidden, dtype=torch.bfloat16))
        self.fused: list[list[Tensor]] = []
        if BY_NAME[job.case].algorithm not in ("dpo", "reward"):
            self.fused = [self._fused(layer) for layer in self.decoder.layers]
        if job.lora:
            loaded.requires_grad_(False)
            self._adapt()
        self.trained = [p for p in loaded.parameters() if p.requires_grad] + [self.scalar]

    def _fused(self, layer: Any) -> list[Tensor]:
        """The matrices that a token is multiplied by, those of the same input joined."""
        a, m = layer.self_attn, layer.mlp
        joined = [(a.q_proj, a.k_proj, a.v_proj), (a.o_proj,), (m.gate_proj, m.up_proj), (m.down_proj,)]
        return [torch.cat([one.weight.detach() for one in some]) for some in joined]

    def _adapt(self) -> None:
        for layer in self.decoder.layers[self.below :]:
            linear = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
            for name, module in linear:
                parent, _, own = name.rpartition(".")
                setattr(layer.get_submodule(parent), own, Adapted(module))

    def _layers(self, hidden: Tensor, first: int, last: int | None) -> Tensor:
        positions = self.decoder.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
        for layer in self.decoder.layers[first:last]:
            hidden = layer(hidden, position_embeddings=positions)
        return hidden

    def trunk(self, ids: Tensor) -> Tensor:
        """What comes out of the layers below."""
        with torch.set_grad_enabled(self.below == 0 and torch.is_grad_enabled()):
            return self._layers(self.decoder.embed_tokens(ids), 0, self.below)

    def states(self, trunk: Tensor) -> Tensor:
        """Last hidden states."""
        return self.decoder.norm(self._layers(trunk, self.below, None))


class Floor:
    """Does the steps of a job."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
        self.job, self.case, self.turns = job, BY_NAME[job.case], Turns(job.shape.tokens)
        self.llama, shape = Llama(job), job.shape
        self.ids = torch.randint(300, min(len(self.llama.head), 4000), (shape.sequences, shape.prompt + shape.response))
        self.optimizer = torch.optim.AdamW(self.llama.trained, lr=LR)
        self.kept = self.llama.trunk(self.ids) if self.llama.below else None

    def nll(self, states: Tensor) -> Tensor:
        """Of the response tokens."""
        before = self.job.shape.prompt
        logits = functional.linear(states[:, before - 1 : -1], self.llama.head)
        return functional.cross_entropy(logits.flatten(0, 1), self.ids[:, before:].flatten())

    def value(self, states: Tensor) -> Tensor:
        """A mean over one number at each response token."""
        return functional.linear(states[:, self.job.shape.prompt - 1 : -1], self.llama.scalar).mean()

    def score(self, states: Tensor) -> Tensor:
        """A mean over one number at each last token."""
        return functional.linear(states[:, -1], self.llama.scalar).mean()

    def update(self, trunk: Tensor | None, *losses: Callable[[Tensor], Tensor]) -> None:
        """Forward, backward, AdamW."""
        states = self.llama.states(self.llama.trunk(self.ids) if trunk is None else trunk)
        torch.stack([loss(states) for loss in losses]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def without_gradient(self, trunk: Tensor | None, loss: Callable[[Tensor], Tensor]) -> None:
        """Forward, adapters off."""
        Adapted.on = False
        loss(self.llama.states(self.llama.trunk(self.ids) if trunk is None else trunk))
        Adapted.on = True

    @torch.inference_mode()
    def products(self) -> None:
        """The matrix products of prefill and decode."""
        shape, lengths = self.job.shape, [self.job.shape.response] * self.job.shape.sequences
        if self.case.name == "decode_ending":
            some = self.job.known.lengths
            lengths = [some[i % len(some)] for i in range(shape.sequences)]
            self.turns.tokens = sum(lengths)
        elif self.case.algorithm == "decode":
            self.turns.tokens = sum(lengths)
        passes = [(self.case.prompts(shape) * shape.prompt, shape.sequences)]
        # The last token is sampled and never passed.
        passes += [(rows, rows) for t in range(1, max(lengths)) if (rows := sum(n > t for n in lengths))]
        for rows, last in passes:
            for matrices in self.llama.fused:
                for weight in matrices:
                    functional.linear(torch.ones(rows, weight.shape[1], dtype=weight.dtype), weight)
            functional.linear(torch.ones(last, self.llama.hidden, dtype=self.llama.head.dtype), self.llama.head)

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a part of the step, and note how long it took."""
        start = time.perf_counter()
        made = work()
        self.turns.parts[name] = time.perf_counter() - start
        return made

    def step(self) -> None:
        """All parts of the case's step."""
        algorithm, trunk = self.case.algorithm, self.kept
        if self.llama.fused:
            self.timed("decode", self.products)
        if algorithm == "decode":
            return
        if trunk is not None and self.case.name != "dpo_kept":
            trunk = self.timed("trunk", lambda: self.llama.trunk(self.ids))
        if algorithm != "reward" and self.case.name != "dpo_kept":
            self.timed("reference", lambda: self.without_gradient(trunk, self.nll))
        if algorithm == "ppo":
            self.timed("reward", lambda: self.without_gradient(trunk, self.score))
        losses = {"reward": [self.score], "ppo": [self.nll, self.value]}.get(algorithm, [self.nll])
        self.timed("update", lambda: self.update(trunk, *losses))

    def run(self) -> None:
        """Steps, until nobody asks for more."""
        if self.case.algorithm == "ppo":
            self.update(self.kept, self.nll, self.value)
            self.timed("own_critic", lambda: self.update(self.kept, self.value))
        self.turns.repeat(self.step)


if __name__ == "__main__":
    Floor(turns.job()).run()
