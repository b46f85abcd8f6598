"""Log-probabilities of tokens. Dimensions: ``N`` counted tokens, ``B`` sequences, ``R`` response tokens, ``H`` hidden,
``V`` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 128  # tokens whose logits exist at once: CHUNK × V float32 numbers


def _logits(hidden_CH: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    z_CV = torch.nn.functional.linear(hidden_CH, head_VH).float()
    return z_CV if temperature == 1.0 else z_CV.div_(temperature)


class _ChunkedLogprobs(torch.autograd.Function):
    """z_y − logsumexp(z) without ever holding the logits of all tokens; the backward computes them again.

    ∂/∂z_v = 1[v = y] − softmax(z)_v.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, ids_N: Tensor, temperature: float) -> Tensor:
        logprobs, normalisers = [], []
        for hidden_CH, ids_C in zip(hidden_NH.split(CHUNK), ids_N.split(CHUNK), strict=True):
            z_CV = _logits(hidden_CH, head_VH, temperature)
            lse_C = z_CV.logsumexp(-1)
            logprobs.append(z_CV.gather(1, ids_C[:, None])[:, 0] - lse_C)
            normalisers.append(lse_C)
        ctx.temperature = temperature
        ctx.save_for_backward(hidden_NH, head_VH, ids_N, torch.cat(normalisers))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_NH, head_VH, ids_N, lse_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(ids_N), CHUNK):
            rows = slice(start, start + CHUNK)
            grad_C1 = (grads[0][rows] / ctx.temperature)[:, None]
            p_CV = _logits(hidden_NH[rows], head_VH, ctx.temperature).sub_(lse_N[rows, None]).exp_()
            grad_CV = p_CV.mul_(-grad_C1).scatter_add_(1, ids_N[rows, None], grad_C1).to(head_VH.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_CV @ head_VH
            if grad_head is not None:
                grad_head += (grad_CV.T @ hidden_NH[rows]).float()
        return grad_hidden, None if grad_head is None else grad_head.to(head_VH.dtype), None, None


def token_logprobs(
    hidden_BRH: Tensor, head_VH: Tensor, token_ids_BR: Tensor, mask_BR: Tensor, temperature: float = 1.0
) -> Tensor:
    """log p(token) at counted positions, zero elsewhere. Shape [B, R], float32.

    ``log p = z_y − logsumexp(z)`` with ``z = W h / temperature`` in float32. The vocabulary projection is done
    on counted tokens only, in chunks, on a contiguous matrix (a strided three-dimensional input takes a path ten
    times slower on CPUs when the head is frozen).

    Raises:
        ValueError: if the tokens, the mask and the hidden states do not agree in [B, R].
    """
    if not hidden_BRH.shape[:2] == token_ids_BR.shape == mask_BR.shape:
        raise ValueError(
            f"hidden {tuple(hidden_BRH.shape)}, tokens {tuple(token_ids_BR.shape)} and mask {tuple(mask_BR.shape)} "
            "must agree in [B, R]; take the hidden states at the positions before each response token"
        )
    out = torch.zeros(mask_BR.shape, device=hidden_BRH.device)
    if not bool(mask_BR.any()):
        return out
    logprob_N: Tensor = _ChunkedLogprobs.apply(hidden_BRH[mask_BR], head_VH, token_ids_BR[mask_BR], temperature)  # type: ignore[no-untyped-call]
    return out.masked_scatter(mask_BR, logprob_N)
