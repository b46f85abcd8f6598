"""The decode loop over a model's own forward pass: the reference for the other, and for models it does not know.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rft.ops.sampling import Truncation, sample
from rft.rollout.decoding import Drawn, record

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decode_by_forward(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    uniform_BR: Tensor,
    temperature: float,
    truncation: Truncation,
    eos_id: int,
    pad_id: int,
) -> Drawn:
    """Sample a response to each prompt; arguments as of ``RolloutEngine.generate``."""
    from transformers import DynamicCache

    batch, limit = uniform_BR.shape
    cache = DynamicCache(config=model.config)
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    padded = not bool(prompt_mask.all())
    mask = prompt_mask.long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ids = prompt_ids
    response, counted = record(batch, limit, pad_id, prompt_ids.device)
    running = torch.ones(batch, dtype=torch.bool, device=prompt_ids.device)
    for t in range(limit):
        where = {"attention_mask": mask, "position_ids": positions} if padded else {}
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, **where, **last).logits
        token = sample(logits[:, -1].contiguous(), uniform_BR[:, t], temperature, truncation)
        response[:, t] = torch.where(running, token, response[:, t])
        counted[:, t] = running
        running = running & (token != eos_id)
        if not running.any():
            break
        ids = token[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = mask.sum(-1, keepdim=True) - 1
    return Drawn(response, counted, prompt_mask.sum(-1))
