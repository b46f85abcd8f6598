"""Samples responses with the engine's own merged copy of a role's weights.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rft.budget import Usage
from rft.models.backbone import Backbone, Role
from rft.models.decoder import decoder_layers
from rft.models.flops import DecoderFlops
from rft.ops.sampling import WHOLE, Truncation
from rft.rollout.decoding import Asked, decode
from rft.rollout.probe import known_structure
from rft.rollout.reference import decode_by_forward
from rft.types import Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rft.rollout.structure import Structure

logger = logging.getLogger(__name__)

LEAST_SAMPLED, MOST_SAMPLED = 64, 512  # responses drawn at once
SAMPLED_TOKENS = 16384  # of these with their prompts, where they are more than the least


def pad_prompts(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, width: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, P], padded on the left to the longest prompt, or to a width that is larger."""
    width = max(width, *(len(p) for p in prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def rows_at_once(row_tokens: int) -> int:
    """How many responses are drawn at once: as many as are quick, which are more where they are short.

    Args:
        row_tokens: of a response with its prompt, padding counted.
    """
    return max(LEAST_SAMPLED, min(SAMPLED_TOKENS // row_tokens, MOST_SAMPLED))


def uniforms(rows: int, tokens: int, *seed: int) -> Tensor:
    """One uniform number for each token to sample. Shape [rows, tokens], float64.

    They are drawn from the seeds alone, row by row, so that a response does not depend on how rows are batched.
    """
    import numpy as np

    drawn = [np.random.default_rng([*seed, row]).random(tokens) for row in range(rows)]
    return torch.from_numpy(np.stack(drawn)) if rows else torch.zeros(0, tokens, dtype=torch.float64)


def _sharing(model: PreTrainedModel) -> Any:
    """A copy of a model's modules, whose parameters have the memory of the model's own until they are given another."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared).eval()


class RolloutEngine:
    """Generates with a plain copy of the start policy, into which a role's adapters are merged by ``sync``.

    Make it before the backbone gets adapters: the copy is taken from the unadapted model, with which it shares its
    memory but for what ``sync`` changes; ``rest`` gives that back. What it samples is added to ``usage``; the prompt of
    several rows is passed through the model once, and so it is counted.

    Models whose structure is known are decoded by a loop over their parts, others by their own forward pass.
    """

    def __init__(self, model: PreTrainedModel, eos_id: int, pad_id: int) -> None:
        self.model: PreTrainedModel = _sharing(model)
        self.eos_id, self.pad_id = eos_id, pad_id
        self.flops = DecoderFlops.of(self.model, decoder_layers(self.model))
        self.usage = Usage()
        self._structure: Structure | None = None
        self._unknown = False
        self._shared = [(p, p.data) for p in self.model.parameters()]
        self._rests = False

    def sync(self, backbone: Backbone, role: Role = Role.policy) -> None:
        """Take over the current weights of a role."""
        self._rests = False
        backbone.merged_into(self.model, role)
        if self._structure is not None:
            self._structure.take_moved()  # merged weights have memory of their own each time

    def rest(self) -> None:
        """Let go of the weights that ``sync`` made, which must come again before anything is generated."""
        for parameter, data in self._shared:
            if (parameter.device, parameter.dtype) == (data.device, data.dtype):  # else it was moved away
                parameter.data = data
        if self._structure is not None:
            self._structure.drop_moved()
        self._rests = True

    @property
    def at_start(self) -> bool:
        """Whether its weights are those of the model that it was made of, whatever ``sync`` gave it."""
        return all(torch.equal(parameter.data.to(data), data) for parameter, data in self._shared)

    @property
    def structure(self) -> Structure | None:
        """What the decode loop goes over, read when it is first wanted on a device; None for models it does not know.

        Reading may join matrices of the same input, whose weights stay those of ``model``.
        """
        if self._unknown or (self._structure is not None and self._structure.current):
            return self._structure
        try:
            self._structure = known_structure(self.model)
        except Exception as reason:  # a model that is read wrongly may fail in any way; its forward pass is right
            self._structure, self._unknown = None, True
            logger.warning("%s is decoded by its own forward pass, slower: %s", type(self.model).__name__, reason)
        return self._structure

    def generate(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        uniform_BR: Tensor,
        temperature: float,
        truncation: Truncation = WHOLE,
        depth: int = 0,
    ) -> Sequences:
        """Sample a response of at most R tokens to each prompt, EOS counted.

        A response depends on its prompt and its numbers, and on the other rows by no more than rounding.

        Args:
            prompt_ids: [B, P], left-padded.
            prompt_mask: [B, P] bool.
            uniform_BR: [B, R] in [0, 1), one number for each token.
            temperature: 0 takes the most likely token.
            truncation: which tokens may be drawn.
            depth: of how many of the lowest layers the output is wanted with the response, as its ``trunk``; they must
                be those that no role changes. A model of unknown structure gives none.

        Raises:
            RuntimeError: if the engine rests.
        """
        if self._rests:
            raise RuntimeError("the engine rests and has no weights of a policy; sync it first")
        structure = self.structure
        asked = Asked(prompt_ids, prompt_mask, uniform_BR, temperature, truncation, self.eos_id, self.pad_id, depth)
        with torch.inference_mode():
            drawn = decode(structure, asked) if structure is not None else decode_by_forward(self.model, asked)
        used = int(drawn.counted.any(0).sum())
        lengths = drawn.counted.sum(-1)
        self.usage.generated_tokens += int(lengths.sum())
        self.usage.flops += self.flops.decoding(prompt_mask.sum(-1), lengths, drawn.prefilled)
        trunk = None
        if drawn.trunk is not None:
            whole = (prompt_mask.sum(-1) + lengths).double()
            self.usage.flops += self.flops.at_end(whole, depth)
            trunk = drawn.trunk[:, : prompt_ids.shape[1] + used].clone()
        # Out of inference mode, whose tensors no gradient may pass by.
        ids, counted = drawn.ids[:, :used].clone(), drawn.counted[:, :used].clone()
        return Sequences(prompt_ids.clone(), prompt_mask.clone(), ids, counted, trunk)
