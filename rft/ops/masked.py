"""Reductions over counted tokens. Dimensions: ``B`` sequences, ``R`` response tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors whose shapes differ.

    Raises:
        ValueError: naming each tensor with its shape.
    """
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes differ: {shapes}; all must be equal, pad them alike before the call")


def masked_sum(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Sum over counted tokens of each sequence. Shape [B]."""
    check_same_shape(x=x_BR, mask=mask_BR)
    return torch.where(mask_BR, x_BR, torch.zeros_like(x_BR)).sum(-1)


def masked_mean(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Mean over all counted tokens of the batch (normaliser: their number, at least 1). Shape []."""
    check_same_shape(x=x_BR, mask=mask_BR)
    return torch.where(mask_BR, x_BR, torch.zeros_like(x_BR)).sum() / mask_BR.sum().clamp(min=1)


def whiten(x_BR: Tensor, mask_BR: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale counted tokens to unit variance and, with ``shift_mean``, zero mean; zero elsewhere. Shape [B, R].

    The normaliser is the biased variance over all counted tokens of all ranks, so that the result does not
    depend on how the batch is split over ranks (Huang et al. 2024, arXiv 2403.17031, detail 8).
    """
    check_same_shape(x=x_BR, mask=mask_BR)
    kept = torch.where(mask_BR, x_BR, torch.zeros_like(x_BR)).double()
    moments = torch.stack([mask_BR.sum().double(), kept.sum(), kept.square().sum()])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(moments)
    count, total, squares = moments
    mean = total / count.clamp(min=1)
    var = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
    out = (kept - mean) * torch.rsqrt(var + eps)
    if not shift_mean:
        out = out + mean
    return torch.where(mask_BR, out, torch.zeros_like(out)).to(x_BR.dtype)
