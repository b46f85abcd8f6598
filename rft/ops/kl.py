"""Estimators of KL(policy ‖ reference) from samples of the policy, in nats. Dimensions: ``B`` sequences, ``R`` tokens.

Source: J. Schulman, "Approximating KL divergence" (2020). With r = p_ref / p: k1 = −log r, k2 = (log r)² / 2,
k3 = r − 1 − log r. k1 and k3 are unbiased; k3 is never negative and has the lower variance near r = 1.
"""

from __future__ import annotations

from torch import Tensor

from rft.ops.masked import check_same_shape, masked_sum


def kl_k1(logprobs_BR: Tensor, ref_logprobs_BR: Tensor) -> Tensor:
    """−log r per token. Shape [B, R]."""
    check_same_shape(logprobs=logprobs_BR, ref_logprobs=ref_logprobs_BR)
    return logprobs_BR - ref_logprobs_BR


def kl_k3(logprobs_BR: Tensor, ref_logprobs_BR: Tensor) -> Tensor:
    """r − 1 − log r per token. Shape [B, R]."""
    log_r = -kl_k1(logprobs_BR, ref_logprobs_BR)
    return log_r.expm1() - log_r


def sequence_kl(logprobs_BR: Tensor, ref_logprobs_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """The reported KL: k1 summed over counted tokens, nats per sequence. Shape [B]."""
    return masked_sum(kl_k1(logprobs_BR, ref_logprobs_BR), mask_BR)
