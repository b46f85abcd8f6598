"""Log-probabilities and entropies of tokens.

Dimensions: ``N`` counted tokens, ``C`` of them in a chunk, ``P`` in a piece, ``K`` in a block, ``B`` sequences, ``R``
response tokens, ``H`` hidden, ``V`` vocabulary.

Logits are z = W h / temperature, made from counted tokens only, in chunks, on a contiguous matrix (a strided
three-dimensional input takes a path ten times slower on CPUs when the head is frozen). They are float32 for float32 and
shorter hidden states, and float64 for float64 ones; on a CPU products of shorter ones are widened a few tokens at a
time, in memory that stays in its cache. Some models bound them: z = c tanh(W h / c) / temperature (Gemma 2,
arXiv 2408.00118, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rft.ops.masked import check_boolean, check_dimensions, check_floating, check_integer, check_same_shape, shown
from rft.ops.products import frozen_back, frozen_linear

CHUNK = 128  # tokens, or up to half as many more, whose products with the head exist at once: CHUNK × V numbers
PIECE = 16  # tokens, or half as many more, that are widened at once on a CPU, but as many as it has threads
KEPT = 2**27  # numbers in the head's type that exist at once where the head is trained: 256 MiB of bfloat16


def _precision(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype is torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class _Scale:
    """What makes logits of W h."""

    temperature: float
    softcap: float | None

    def logits(self, product_CV: Tensor) -> Tensor:
        """z of W h, [C, V], in its memory where it has their type."""
        z_CV = product_CV.to(_precision(product_CV))
        if self.softcap is not None:
            z_CV.div_(self.softcap).tanh_().mul_(self.softcap)
        return z_CV if self.temperature == 1.0 else z_CV.div_(self.temperature)

    def slope(self, z_CV: Tensor) -> Tensor | float:
        """∂z/∂(W h), which is (1 − (z · temperature / c)²) / temperature where logits are bounded."""
        if self.softcap is None:
            return 1 / self.temperature
        return (1 - (z_CV * (self.temperature / self.softcap)).square_()).div_(self.temperature)


_Number = Callable[[Tensor, _Scale, slice, bool], tuple[Tensor, Tensor | None]]
"""Of logits [C, V], which are the rows of a slice, a number each [C] and if asked for ∂number/∂(W h) [C, V].

It may write to the logits."""


class _ChunkedHead(torch.autograd.Function):
    """A number of each token's logits, without ever holding the float32 logits of all tokens.

    A token's gradient is known but for a factor. With a frozen head it is made with the number, so that the backward
    needs no logits again. A head that is trained wants what its logits' gradients are made of: kept in the head's type
    if that is little, else made again by blocks.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, scale: _Scale, number: _Number) -> Tensor:
        found_N = hidden_NH.new_empty(len(hidden_NH), dtype=_precision(hidden_NH))
        of_hidden, of_head = ctx.needs_input_grad[:2]
        gradients_NH = torch.empty_like(hidden_NH) if of_hidden and not of_head else None
        keeps = of_head and len(hidden_NH) <= _block(head_VH)
        slopes_NV = head_VH.new_empty(len(hidden_NH), len(head_VH)) if keeps else None
        for rows in _chunks(len(hidden_NH), _even(len(hidden_NH))):
            slopes_CV = _numbers(found_N, hidden_NH, head_VH, scale, number, rows, keeps or gradients_NH is not None)
            if gradients_NH is not None and slopes_CV is not None:
                gradients_NH[rows] = frozen_back(slopes_CV, head_VH)
            if slopes_NV is not None and slopes_CV is not None:
                slopes_NV[rows] = slopes_CV
        ctx.scale, ctx.number = scale, number
        ctx.save_for_backward(hidden_NH, head_VH, gradients_NH, slopes_NV)
        return found_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_NH, head_VH, gradients_NH, slopes_NV = ctx.saved_tensors
        grads_N1 = grads[0][:, None]
        if gradients_NH is not None:
            return (gradients_NH * grads_N1).to(gradients_NH.dtype), None, None, None
        grad_hidden = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        grad_head: Tensor | None = None
        for rows in _chunks(len(hidden_NH), _block(head_VH)):
            slopes_KV = _slopes(ctx, hidden_NH, head_VH, rows) if slopes_NV is None else slopes_NV
            if grad_hidden is not None:
                grad_hidden[rows] = (slopes_KV @ head_VH) * grads_N1[rows]
            part = slopes_KV.T @ (hidden_NH[rows] * grads_N1[rows]).to(head_VH.dtype)
            grad_head = part if grad_head is None else grad_head.to(_precision(part)).add_(part)
        return grad_hidden, torch.zeros_like(head_VH) if grad_head is None else grad_head.to(head_VH.dtype), None, None


def _numbers(
    found_N: Tensor, hidden_NH: Tensor, head_VH: Tensor, scale: _Scale, number: _Number, rows: slice, sloped: bool
) -> Tensor | None:
    """Write the number of each token of a chunk; returns its slopes in the head's type if asked for. Shape [C, V]."""
    product_CV, start = frozen_linear(hidden_NH[rows], head_VH), rows.start
    # Of even size: a sum over a single row is split over threads, and rounds otherwise than beside another.
    most = max(PIECE, torch.get_num_threads()) if product_CV.device.type == "cpu" else len(product_CV)
    for part_PV in product_CV.tensor_split(max(1, round(len(product_CV) / max(1, most)))):
        where = slice(start, start + len(part_PV))
        found_N[where], slopes_PV = number(scale.logits(part_PV), scale, where, sloped)
        if slopes_PV is not None:
            part_PV.copy_(slopes_PV)
        start = where.stop
    return product_CV if sloped else None


def _slopes(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, block: slice) -> Tensor:
    """The slopes of a block, made again, in the head's type. Shape [K, V]."""
    ignored_N = hidden_NH.new_empty(len(hidden_NH), dtype=_precision(hidden_NH))
    found = []
    for start in range(block.start, min(block.stop, len(hidden_NH)), CHUNK):
        rows = slice(start, min(start + CHUNK, block.stop))
        found.append(_numbers(ignored_N, hidden_NH, head_VH, ctx.scale, ctx.number, rows, True))
    return torch.cat([slopes_CV for slopes_CV in found if slopes_CV is not None])


def _block(head_VH: Tensor) -> int:
    """Tokens of a block."""
    return max(KEPT // len(head_VH), CHUNK)


def _chunks(tokens: int, size: int = CHUNK) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, tokens, size))


def _even(tokens: int) -> int:
    """The size of chunks of about CHUNK tokens, none of which is a small rest: that would take as long as a whole."""
    return max(1, -(-tokens // max(1, round(tokens / CHUNK))))


def _logprobs(ids_N: Tensor) -> _Number:
    """z_y − logsumexp(z); ∂/∂z_v = 1[v = y] − softmax(z)_v. Works within the memory of the logits."""

    def number(z_CV: Tensor, scale: _Scale, rows: slice, sloped: bool) -> tuple[Tensor, Tensor | None]:
        ids_C1 = ids_N[rows, None]
        chosen_C1, most_C1, slope = z_CV.gather(1, ids_C1), z_CV.amax(-1, keepdim=True), scale.slope(z_CV)
        e_CV = z_CV.sub_(most_C1).exp_()
        sum_C1 = e_CV.sum(-1, keepdim=True)
        logprob_C = (chosen_C1 - most_C1 - sum_C1.log())[:, 0]
        if not sloped:
            return logprob_C, None
        slopes_CV = e_CV.div_(-sum_C1).scatter_add_(1, ids_C1, torch.ones_like(sum_C1))
        return logprob_C, slopes_CV if isinstance(slope, float) and slope == 1 else slopes_CV.mul_(slope)

    return number


def _entropies(z_CV: Tensor, scale: _Scale, _: slice, sloped: bool) -> tuple[Tensor, Tensor | None]:
    """H = −Σ_v p_v log p_v; ∂H/∂z_v = −p_v (log p_v + H)."""
    logp_CV = z_CV.log_softmax(-1)
    p_CV = logp_CV.exp()
    entropy_C1 = -(p_CV * logp_CV).sum(-1, keepdim=True)
    slopes = p_CV.mul_(logp_CV.add_(entropy_C1)).neg_().mul_(scale.slope(z_CV)) if sloped else None
    return entropy_C1[:, 0], slopes


def _check(hidden_BRH: Tensor, head_VH: Tensor, mask_BR: Tensor, temperature: float) -> None:
    check_boolean(mask=mask_BR)
    check_floating(hidden=hidden_BRH, head=head_VH)
    check_dimensions("BRH", hidden=hidden_BRH)
    check_dimensions("VH", head=head_VH)
    if hidden_BRH.shape[:2] != mask_BR.shape:
        raise ValueError(
            f"{shown(hidden=hidden_BRH, mask=mask_BR)}: they must agree in [B, R]; "
            "take the hidden states at the positions before each response token"
        )
    if hidden_BRH.shape[2] != head_VH.shape[1]:
        raise ValueError(
            f"{shown(hidden=hidden_BRH, head=head_VH)}: they must agree in H; "
            "give the weight of the output embeddings as [V, H]"
        )
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: must be above 0; greedy decoding has no log-probabilities")


def token_logprobs(
    hidden_BRH: Tensor,
    head_VH: Tensor,
    token_ids_BR: Tensor,
    mask_BR: Tensor,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """log p(token) = z_y − logsumexp(z) in nats at counted positions, zero elsewhere. Shape [B, R].

    float32 whatever the hidden states' dtype, but float64 for float64. Differentiable once, in hidden states and head.
    ``softcap`` is the bound c of the logits, None for most models.

    Raises:
        TypeError: unless hidden states and head are floating-point, tokens whole numbers, the mask boolean.
        ValueError: if the tokens, the mask and the hidden states do not agree in [B, R], or hidden states and head in
            H; for a temperature that is not above 0.
    """
    _check(hidden_BRH, head_VH, mask_BR, temperature)
    check_integer(token_ids=token_ids_BR)
    check_same_shape(token_ids=token_ids_BR, mask=mask_BR)
    out = torch.zeros(mask_BR.shape, dtype=_precision(hidden_BRH), device=hidden_BRH.device)
    ids_N = token_ids_BR[mask_BR].long()
    logprob_N: Tensor = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden_BRH[mask_BR], head_VH, _Scale(temperature, softcap), _logprobs(ids_N)
    )
    return out.masked_scatter(mask_BR, logprob_N)


def token_entropy(
    hidden_BRH: Tensor, head_VH: Tensor, mask_BR: Tensor, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    """H = −Σ_v p_v log p_v in nats, p = softmax(z), at counted positions, zero elsewhere. Shape [B, R].

    The entropy of the distribution that is sampled from at each token, temperature included (Williams & Peng 1991;
    Mnih et al. 2016, arXiv 1602.01783, section 4): between 0 and log V. float32 whatever the hidden states' dtype, but
    float64 for float64. Differentiable once, in hidden states and head.

    Raises:
        TypeError: unless hidden states and head are floating-point and the mask boolean.
        ValueError: if the mask and the hidden states do not agree in [B, R], or hidden states and head in H; for a
            temperature that is not above 0.
    """
    _check(hidden_BRH, head_VH, mask_BR, temperature)
    out = torch.zeros(mask_BR.shape, dtype=_precision(hidden_BRH), device=hidden_BRH.device)
    entropy_N: Tensor = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden_BRH[mask_BR], head_VH, _Scale(temperature, softcap), _entropies
    )
    return out.masked_scatter(mask_BR, entropy_N)
