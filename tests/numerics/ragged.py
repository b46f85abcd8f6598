"""Batches of rows of different lengths, one of them a single token, and what padding may change: nothing.

Dimensions: ``B`` sequences, ``R`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def padded(x: Tensor, value: float = 7.0) -> Tensor:
    """Two more columns, of a value that must not count."""
    return torch.cat([x, torch.full((len(x), 2), value, dtype=x.dtype)], 1)


def longer(mask: Tensor) -> Tensor:
    """The mask with two more columns that do not count."""
    return torch.cat([mask, torch.zeros(len(mask), 2, dtype=torch.bool)], 1)


def assert_padding_is_nothing(loss: Callable[..., Tensor], first: Tensor, *others: Tensor) -> None:
    """Two more columns of any numbers change neither the loss nor its gradient, and get none themselves.

    Args:
        loss: of tensors [B, R], the last of them the mask.
        first: the one with a gradient.
        others: the rest, the mask last.
    """
    *rest, mask = others
    x, wide = (t.clone().requires_grad_() for t in (first, padded(first, 3.0)))
    plain, same = loss(x, *rest, mask), loss(wide, *(padded(t) for t in rest), longer(mask))
    torch.testing.assert_close(same, plain)
    (wanted,), (got,) = torch.autograd.grad(plain, x), torch.autograd.grad(same, wide)
    assert wanted.ne(0).any()
    torch.testing.assert_close(got, torch.cat([wanted, torch.zeros(len(mask), 2, dtype=wanted.dtype)], 1))


def ragged(count: int) -> tuple[list[Tensor], Tensor]:
    """Random numbers [3, 4] in float64 and a mask with rows of 4, 1 and 3 tokens."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(4)[None] < torch.tensor([4, 1, 3])[:, None]
    return [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(count)], mask
