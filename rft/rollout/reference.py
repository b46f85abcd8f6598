"""The decode loop over a model's own forward pass: the reference for the other, and for models it does not know.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from rft.ops.sampling import sample
from rft.rollout.decoding import Asked, Drawn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decode_by_forward(model: PreTrainedModel, asked: Asked) -> Drawn:
    """Sample a response to each prompt."""
    from transformers import DynamicCache

    batch, limit = asked.uniform_BR.shape
    cache = DynamicCache(config=model.config)
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    padded = not bool(asked.prompt_mask.all())
    mask = asked.prompt_mask.long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ids = asked.prompt_ids
    response, counted = asked.record()
    running = torch.ones(batch, dtype=torch.bool, device=ids.device)
    for t in range(limit):
        where = {"attention_mask": mask, "position_ids": positions} if padded else {}
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, **where, **last).logits
        token = sample(logits[:, -1].contiguous(), asked.uniform_BR[:, t], asked.temperature, asked.truncation)
        response[:, t] = torch.where(running, token, response[:, t])
        counted[:, t] = running
        running = running & (token != asked.eos_id)
        if not running.any():
            break
        ids = token[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = mask.sum(-1, keepdim=True) - 1
    return Drawn(response, counted, asked.prompt_mask.sum(-1))
