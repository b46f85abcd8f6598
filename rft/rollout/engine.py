"""Samples responses with the engine's own merged copy of a role's weights.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rft.budget import Usage
from rft.models.backbone import Backbone, Role, decoder_layers
from rft.models.flops import DecoderFlops
from rft.types import Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pad_prompts(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, width: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, P], padded on the left to the longest prompt, or to a width that is larger."""
    width = max(width, *(len(p) for p in prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def uniforms(rows: int, tokens: int, *seed: int) -> Tensor:
    """One uniform number for each token to sample. Shape [rows, tokens], float64.

    They are drawn from the seeds alone, row by row, so that a response does not depend on how rows are batched.
    """
    import numpy as np

    drawn = [np.random.default_rng([*seed, row]).random(tokens) for row in range(rows)]
    return torch.from_numpy(np.stack(drawn)) if rows else torch.zeros(0, tokens, dtype=torch.float64)


def sample(logits_BV: Tensor, uniform_B: Tensor, temperature: float) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at one uniform number. Shape [B].

    Temperature 0 takes the most likely token and needs no number.
    ``torch.multinomial`` draws an exponential for each entry of the vocabulary: many times the work.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    cdf = torch.softmax(logits_BV.float() / temperature, -1).cumsum(-1)
    total = cdf[:, -1:]
    # Rounded to float32, a number just below 1 becomes 1: the search would then leave the row, or end on a token
    # without probability.
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniform_B.to(cdf)[:, None] * total, below)
    # Logits that are no numbers have no place in the row; the loss on them ends the training and says so.
    return torch.searchsorted(cdf, target, right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


class RolloutEngine:
    """Generates with a plain copy of the start policy, into which a role's adapters are merged by ``sync``.

    Make it before the backbone gets adapters: the copy is taken from the unadapted model. What it samples is added to
    ``usage``.
    """

    def __init__(self, model: PreTrainedModel, eos_id: int, pad_id: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.eos_id, self.pad_id = eos_id, pad_id
        self.flops = DecoderFlops.of(self.model, decoder_layers(self.model))
        self.usage = Usage()

    def sync(self, backbone: Backbone, role: Role = Role.policy) -> None:
        """Take over the current weights of a role."""
        backbone.merged_into(self.model, role)

    @torch.inference_mode()
    def generate(self, prompt_ids: Tensor, prompt_mask: Tensor, uniform_BR: Tensor, temperature: float) -> Sequences:
        """Sample a response of at most R tokens to each prompt, EOS counted.

        Args:
            prompt_ids: [B, P], left-padded.
            prompt_mask: [B, P] bool.
            uniform_BR: [B, R] in [0, 1), one number for each token.
            temperature: 0 takes the most likely token.
        """
        from transformers import DynamicCache

        batch, limit = uniform_BR.shape
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        cache = DynamicCache(config=self.model.config)
        padded = not bool(prompt_mask.all())
        mask = prompt_mask.long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        ids = prompt_ids
        response = torch.full((batch, limit), self.pad_id, device=prompt_ids.device)
        counted = torch.zeros(batch, limit, dtype=torch.bool, device=prompt_ids.device)
        running = torch.ones(batch, dtype=torch.bool, device=prompt_ids.device)
        for t in range(limit):
            where = {"attention_mask": mask, "position_ids": positions} if padded else {}
            states = decoder(input_ids=ids, past_key_values=cache, use_cache=True, **where).last_hidden_state
            token = sample(head(states[:, -1].contiguous()), uniform_BR[:, t], temperature)
            response[:, t] = torch.where(running, token, response[:, t])
            counted[:, t] = running
            running = running & (token != self.eos_id)
            if not running.any():
                break
            ids = token[:, None]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            positions = mask.sum(-1, keepdim=True) - 1
        used = int(counted.any(0).sum())
        lengths = counted.sum(-1)
        self.usage.generated_tokens += int(lengths.sum())
        self.usage.flops += self.flops.decoding(prompt_mask.sum(-1), lengths)
        return Sequences(prompt_ids.clone(), prompt_mask.clone(), response[:, :used].clone(), counted[:, :used].clone())
