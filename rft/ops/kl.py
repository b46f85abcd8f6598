"""Estimators of KL(policy ‖ reference) from samples of the policy, in nats. Dimensions: ``B`` sequences, ``R`` tokens.

With r = p_ref / p at a token that p sampled (J. Schulman, "Approximating KL divergence", 2020):

- k1 = −log r is unbiased and may be negative.
- k2 = (log r)² / 2 is biased and never negative.
- k3 = r − 1 − log r is unbiased and never negative, and has the lower variance near r = 1.

Subtracted from the reward, where no gradient passes, k1 gives the gradient of KL(p ‖ p_ref). Added to the loss they do
something else, since the samples are held fixed; for samples of p itself, E[∇k1] = 0, E[∇k2] = ∇ KL(p ‖ p_ref) and
E[∇k3] = ∇ KL(p_ref ‖ p).
"""

from __future__ import annotations

import math

from torch import Tensor

from rft.ops.masked import check_dimensions, check_floating, check_same_shape, masked_sum


def kl_k1(logprobs_BR: Tensor, ref_logprobs_BR: Tensor) -> Tensor:
    """−log r per token. Shape [B, R].

    Raises:
        TypeError: unless both are floating-point numbers.
        ValueError: unless both are [B, R].
    """
    check_floating(logprobs=logprobs_BR, ref_logprobs=ref_logprobs_BR)
    check_same_shape(logprobs=logprobs_BR, ref_logprobs=ref_logprobs_BR)
    check_dimensions("BR", logprobs=logprobs_BR)
    return logprobs_BR - ref_logprobs_BR


def kl_k2(logprobs_BR: Tensor, ref_logprobs_BR: Tensor) -> Tensor:
    """(log r)² / 2 per token. Shape [B, R].

    Raises:
        TypeError, ValueError: see ``kl_k1``.
    """
    return kl_k1(logprobs_BR, ref_logprobs_BR).square() / 2


def kl_k3(logprobs_BR: Tensor, ref_logprobs_BR: Tensor) -> Tensor:
    """r − 1 − log r per token. Shape [B, R]. The KL term of GRPO (Shao et al. 2024, arXiv 2402.03300, equation 4).

    Raises:
        TypeError, ValueError: see ``kl_k1``.
    """
    log_r = -kl_k1(logprobs_BR, ref_logprobs_BR)
    return log_r.expm1() - log_r


def sequence_kl(logprobs_BR: Tensor, ref_logprobs_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """The reported KL: k1 summed over counted tokens, nats per sequence. Shape [B].

    Its expectation over sequences of the policy is KL(policy ‖ reference) of whole responses; one sequence's value
    may be negative.

    Raises:
        TypeError, ValueError: see ``kl_k1`` and ``rft.ops.masked.check_tokens``.
    """
    return masked_sum(kl_k1(logprobs_BR, ref_logprobs_BR), mask_BR)


def best_of_n_kl(n: int) -> float:
    """log n − (n−1)/n: the most that KL(best of n ‖ reference) can be, in nats per sequence.

    Exact where no two samples have the same reward (Stiennon et al. 2020, arXiv 2009.01325, appendix G.3; J. Hilton,
    "KL divergence of max-of-n", 2023), an upper bound otherwise (Beirami et al. 2024, arXiv 2401.01879).

    Raises:
        ValueError: for n below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1, the number of samples of which the best is taken")
    return math.log(n) - (n - 1) / n
