"""Losses of policies, critics and reward models, all to be minimised; those of pairs are in ``preference``.

Dimensions: ``B`` sequences or pairs, ``R`` response tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rft.ops.masked import check_tokens, check_vectors, masked_mean


def clipped_surrogate(
    logprobs_BR: Tensor,
    old_logprobs_BR: Tensor,
    advantages_BR: Tensor,
    mask_BR: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    metric_mean: Callable[[Tensor, Tensor], Tensor] = masked_mean,
) -> tuple[Tensor, dict[str, Tensor]]:
    """max(−ρ A, −clip(ρ, 1 − clip_low, 1 + clip_high) A) per token, ρ = exp(log π − log π_old). Shape [B, R].

    Zero outside the mask; not reduced, so that the caller chooses the normaliser (``rft.ops.masked``). With
    ``dual_clip`` c > 1, the loss where A < 0 is at most −c A, so that a token that has become far more likely does not
    pull without bound. Sources: Schulman et al. 2017 (arXiv 1707.06347), equation 7; different bounds, Yu et al. 2025
    (arXiv 2503.14476), equation 10; dual clip, Ye et al. 2020 (arXiv 1912.09729), equation 5.

    Metrics, detached, shape []: ``ratio``; ``clip_fraction``, the share of tokens where the clipped term is the greater
    loss; ``update_kl``, the k3 estimate of KL(π_old ‖ π) in nats per token. ``metric_mean`` reduces them, by default
    over counted tokens: give ``sequence_mean`` where the loss counts sequences, so that both are weighted alike. A
    sequence without counted tokens has a ratio of 1.

    Raises:
        TypeError, ValueError: see ``rft.ops.masked.check_tokens``; ValueError also for bounds below 0 and a dual clip
            that is not above 1.
    """
    check_tokens(mask_BR, logprobs=logprobs_BR, old_logprobs=old_logprobs_BR, advantages=advantages_BR)
    if clip_low < 0 or clip_high < 0:
        raise ValueError(f"clip_low={clip_low}, clip_high={clip_high}: must be at least 0, the way from a ratio of 1")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip}: must be above 1; give None for none")
    log_ratio = torch.where(mask_BR, logprobs_BR - old_logprobs_BR, torch.zeros_like(logprobs_BR))
    ratio = log_ratio.exp()
    unclipped = -ratio * advantages_BR
    clipped = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages_BR
    loss = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages_BR < 0, torch.minimum(loss, -dual_clip * advantages_BR), loss)
    with torch.no_grad():
        metrics = {
            "ratio": 1 + metric_mean(ratio - 1, mask_BR),
            "clip_fraction": metric_mean((clipped > unclipped).to(ratio), mask_BR),
            "update_kl": metric_mean(ratio - 1 - log_ratio, mask_BR),
        }
    return torch.where(mask_BR, loss, torch.zeros_like(loss)), metrics


def ppo_policy_loss(
    logprobs_BR: Tensor,
    old_logprobs_BR: Tensor,
    advantages_BR: Tensor,
    mask_BR: Tensor,
    clip_range: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate: −E_t[min(ρ A, clip(ρ, 1 − clip_range, 1 + clip_high) A)]. Shape [].

    Normaliser: the number of counted tokens of the batch (``masked_mean``). ``clip_high`` is ``clip_range`` unless
    given. The rest is that of ``clipped_surrogate``, with the same sources, metrics and errors.
    """
    clip_high = clip_range if clip_high is None else clip_high
    loss_BR, metrics = clipped_surrogate(
        logprobs_BR, old_logprobs_BR, advantages_BR, mask_BR, clip_range, clip_high, dual_clip
    )
    return masked_mean(loss_BR, mask_BR), metrics


def clipped_value_loss(
    values_BR: Tensor, old_values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor, clip_range: float
) -> Tensor:
    """½ E_t[max((V − G)², (clip(V, V_old ± clip_range) − G)²)]. Shape [], in squared reward units.

    Normaliser: the number of counted tokens of the batch. Source: Huang et al. 2024 (arXiv 2403.17031), detail 11
    (value clipping).

    Raises:
        TypeError, ValueError: see ``rft.ops.masked.check_tokens``; ValueError also for a range below 0.
    """
    check_tokens(mask_BR, values=values_BR, old_values=old_values_BR, returns=returns_BR)
    if clip_range < 0:
        raise ValueError(f"clip_range={clip_range}: must be at least 0, the way from the old value")
    near = old_values_BR + (values_BR - old_values_BR).clamp(-clip_range, clip_range)
    error = torch.maximum((values_BR - returns_BR).square(), (near - returns_BR).square())
    return 0.5 * masked_mean(error, mask_BR)


def bradley_terry_loss(first_B: Tensor, second_B: Tensor, preference_B: Tensor) -> Tensor:
    """−E[p log σ(s₁ − s₂) + (1−p) log σ(s₂ − s₁)], p = P(first is better) in [0, 1]. Shape [], in nats.

    Normaliser: the number of pairs B. Source: Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), equation 1,
    with soft labels.

    Raises:
        TypeError: unless all are floating-point numbers.
        ValueError: unless all are [B].
    """
    check_vectors(first=first_B, second=second_B, preference=preference_B)
    margin = first_B - second_B
    return -(preference_B * logsigmoid(margin) + (1 - preference_B) * logsigmoid(-margin)).mean()
