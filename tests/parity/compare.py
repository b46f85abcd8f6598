"""The one tolerance, and how a loss with its gradient is held against TRL's."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.parity.exchange import Tensors

TOLERANCE = 1e-5


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5, in absolute terms or, for larger numbers, in relative ones. TRL may answer in float32 what we do not."""
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_loss(loss: Tensor, theirs: Tensors, *leaves: Tensor) -> None:
    """The same loss, and the same gradient on each leaf, which is not zero throughout."""
    assert_same(loss.detach(), theirs["loss"])
    for i, gradient in enumerate(torch.autograd.grad(loss.sum(), leaves)):
        assert theirs[f"gradient_{i}"].abs().max() > 100 * TOLERANCE
        assert_same(gradient, theirs[f"gradient_{i}"])
