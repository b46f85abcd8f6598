"""Entry checks, and reductions over counted tokens. Dimensions: ``B`` sequences, ``R`` response tokens.

Masks are boolean and true on counted tokens. What stands outside a mask counts nowhere, whatever number it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shown(**tensors: Tensor) -> str:
    """Each tensor as ``name [2, 3] float32``."""
    return ", ".join(f"{name} {list(x.shape)} {str(x.dtype).removeprefix('torch.')}" for name, x in tensors.items())


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors whose shapes differ.

    Raises:
        ValueError: naming each tensor with its shape and dtype.
    """
    if len({x.shape for x in tensors.values()}) > 1:
        raise ValueError(f"shapes differ: {shown(**tensors)}; all must be equal, pad them alike before the call")


def check_dimensions(wanted: str, **tensors: Tensor) -> None:
    """Refuse tensors that have not one dimension for each letter of ``wanted``, as in ``"BR"``.

    Raises:
        ValueError: naming the tensor with its shape and dtype.
    """
    for name, x in tensors.items():
        if x.ndim != len(wanted):
            letters = ", ".join(wanted)
            raise ValueError(f"{shown(**{name: x})}: the shape [{letters}] is wanted; index or reshape it to that")


def check_floating(**tensors: Tensor) -> None:
    """Refuse tensors of other than floating-point numbers.

    Raises:
        TypeError: naming the tensor with its shape and dtype.
    """
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise TypeError(f"{shown(**{name: x})}: floating-point numbers are wanted; convert it with .float()")


def check_integer(**tensors: Tensor) -> None:
    """Refuse tensors of other than whole numbers.

    Raises:
        TypeError: naming the tensor with its shape and dtype.
    """
    for name, x in tensors.items():
        if x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
            raise TypeError(f"{shown(**{name: x})}: whole numbers are wanted; convert it with .long()")


def check_boolean(**tensors: Tensor) -> None:
    """Refuse tensors of other than truth values.

    Raises:
        TypeError: naming the tensor with its shape and dtype.
    """
    for name, x in tensors.items():
        if x.dtype is not torch.bool:
            raise TypeError(f"{shown(**{name: x})}: torch.bool is wanted, true where it holds; convert it with .bool()")


def check_tokens(mask_BR: Tensor, **values_BR: Tensor) -> None:
    """Refuse a mask that is not boolean, and values that are not floating-point numbers [B, R] of its shape.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape.
    """
    check_boolean(mask=mask_BR)
    check_floating(**values_BR)
    check_same_shape(**values_BR, mask=mask_BR)
    check_dimensions("BR", mask=mask_BR)


def check_vectors(**values_B: Tensor) -> None:
    """Refuse values that are not floating-point numbers [B] of one shape.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape.
    """
    check_floating(**values_B)
    check_dimensions("B", **values_B)
    check_same_shape(**values_B)


def check_sequences(mask_BR: Tensor, **values_B: Tensor) -> None:
    """Refuse values that are not floating-point numbers [B], one for each row of the mask.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape.
    """
    check_vectors(**values_B)
    for name, x in values_B.items():
        if len(x) != len(mask_BR):
            raise ValueError(f"rows differ: {shown(**{name: x}, mask=mask_BR)}; give one number for each sequence")


def masked_sum(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Σ_t x_t over the counted tokens of each sequence. Shape [B].

    Raises:
        TypeError, ValueError: see ``check_tokens``.
    """
    check_tokens(mask_BR, x=x_BR)
    return torch.where(mask_BR, x_BR, torch.zeros_like(x_BR)).sum(-1)


def masked_mean(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Σ_{i,t} x_{i,t} / Σ_i |y_i|: mean over all counted tokens of the batch. Shape [].

    Normaliser: the number of counted tokens of the batch, at least 1, so that every token weighs the same
    (the token-level loss of Yu et al. 2025, arXiv 2503.14476, equation 12).

    Raises:
        TypeError, ValueError: see ``check_tokens``.
    """
    check_tokens(mask_BR, x=x_BR)
    return torch.where(mask_BR, x_BR, torch.zeros_like(x_BR)).sum() / mask_BR.sum().clamp(min=1)


def row_mean(x_B: Tensor, kept_B: Tensor) -> Tensor:
    """Mean over the rows that are kept; 0 if none is. Shape [].

    Normaliser: their number, at least 1.

    Raises:
        TypeError, ValueError: unless values [B] and a boolean [B] come.
    """
    check_vectors(x=x_B)
    check_boolean(kept=kept_B)
    check_same_shape(x=x_B, kept=kept_B)
    return torch.where(kept_B, x_B, torch.zeros_like(x_B)).sum() / kept_B.sum().clamp(min=1)


def sequence_mean(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """(1/B) Σ_i (1/|y_i|) Σ_t x_{i,t}: mean over sequences of the mean over their counted tokens. Shape [].

    Normaliser: |y_i| counted tokens in a sequence, then B sequences, each at least 1, so that every sequence weighs
    the same. One without counted tokens adds 0 and is one of the B. Source: Shao et al. 2024 (arXiv 2402.03300),
    equation 3.

    Raises:
        TypeError, ValueError: see ``check_tokens``.
    """
    means_B = masked_sum(x_BR, mask_BR) / mask_BR.sum(-1).clamp(min=1)
    return means_B.sum() / max(len(means_B), 1)


def fixed_mean(x_BR: Tensor, mask_BR: Tensor, length: int) -> Tensor:
    """Σ_{i,t} x_{i,t} / (B · length): the sum over counted tokens over a constant. Shape [].

    Normaliser: B sequences, at least 1, times ``length`` (the longest response that may be sampled, in tokens), so
    that a token's weight depends neither on its own sequence's length nor on the others'. Source: Liu et al. 2025
    (arXiv 2503.20783), section 3 (Dr. GRPO).

    Raises:
        TypeError, ValueError: see ``check_tokens``; ValueError also for a length below 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1; give the longest response that may be sampled")
    sums_B = masked_sum(x_BR, mask_BR)
    return sums_B.sum() / (max(len(sums_B), 1) * length)


def whiten(x_BR: Tensor, mask_BR: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(x − μ) / √(σ² + eps) at counted tokens, without the shift of the mean if not ``shift_mean``. Shape [B, R].

    Zero outside the mask. Normaliser: μ and the biased variance σ² over all counted tokens of all ranks, so that the
    result does not depend on how the batch is split over ranks (Huang et al. 2024, arXiv 2403.17031, detail 8).

    Raises:
        TypeError, ValueError: see ``check_tokens``.
    """
    check_tokens(mask_BR, x=x_BR)
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
