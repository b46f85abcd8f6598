"""Log-probabilities of tokens. Dimensions: ``B`` sequences, ``R`` response tokens, ``H`` hidden, ``V`` vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(
    hidden_BRH: Tensor, head_VH: Tensor, token_ids_BR: Tensor, mask_BR: Tensor, temperature: float = 1.0
) -> Tensor:
    """log p(token) at counted positions, zero elsewhere. Shape [B, R], float32.

    ``log p = z_y − logsumexp(z)`` with ``z = W h / temperature`` in float32. The vocabulary projection is done
    on counted tokens only, on a contiguous matrix (a strided three-dimensional input takes a path ten times
    slower on CPUs when the head is frozen).

    Raises:
        ValueError: if the tokens, the mask and the hidden states do not agree in [B, R].
    """
    if not hidden_BRH.shape[:2] == token_ids_BR.shape == mask_BR.shape:
        raise ValueError(
            f"hidden {tuple(hidden_BRH.shape)}, tokens {tuple(token_ids_BR.shape)} and mask {tuple(mask_BR.shape)} "
            "must agree in [B, R]; take the hidden states at the positions before each response token"
        )
    z_NV = torch.nn.functional.linear(hidden_BRH[mask_BR], head_VH).float()
    if temperature != 1.0:
        z_NV = z_NV / temperature
    logprob_N = -torch.nn.functional.cross_entropy(z_NV, token_ids_BR[mask_BR], reduction="none")
    return torch.zeros(mask_BR.shape, device=logprob_N.device).masked_scatter(mask_BR, logprob_N)
