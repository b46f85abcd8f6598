"""Losses, all to be minimised. Dimensions: ``B`` sequences or pairs, ``R`` response tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rft.ops.masked import check_same_shape, masked_mean


def ppo_policy_loss(
    logprobs_BR: Tensor, old_logprobs_BR: Tensor, advantages_BR: Tensor, mask_BR: Tensor, clip_range: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate: −E_t[min(ρ A, clip(ρ, 1−ε, 1+ε) A)], ρ = exp(log π − log π_old). Shape [].

    Mean over counted tokens (Schulman et al. 2017, arXiv 1707.06347, equation 7). Metrics: mean ratio, the share
    of tokens where the clipped term is the smaller one, and the k3 estimate of KL(π_old ‖ π) per token.
    """
    check_same_shape(logprobs=logprobs_BR, old=old_logprobs_BR, advantages=advantages_BR, mask=mask_BR)
    log_ratio = torch.where(mask_BR, logprobs_BR - old_logprobs_BR, torch.zeros_like(logprobs_BR))
    ratio = log_ratio.exp()
    unclipped = -ratio * advantages_BR
    clipped = -ratio.clamp(1 - clip_range, 1 + clip_range) * advantages_BR
    loss = masked_mean(torch.maximum(unclipped, clipped), mask_BR)
    with torch.no_grad():
        metrics = {
            "ratio": masked_mean(ratio, mask_BR),
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask_BR),
            "update_kl": masked_mean(ratio - 1 - log_ratio, mask_BR),
        }
    return loss, metrics


def clipped_value_loss(
    values_BR: Tensor, old_values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor, clip_range: float
) -> Tensor:
    """½ E_t[max((V − G)², (clip(V, V_old ± ε) − G)²)], mean over counted tokens. Shape [].

    Source: Huang et al. 2024 (arXiv 2403.17031), detail 11 (value clipping).
    """
    check_same_shape(values=values_BR, old_values=old_values_BR, returns=returns_BR, mask=mask_BR)
    near = old_values_BR + (values_BR - old_values_BR).clamp(-clip_range, clip_range)
    error = torch.maximum((values_BR - returns_BR).square(), (near - returns_BR).square())
    return 0.5 * masked_mean(error, mask_BR)


def dpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    ref_chosen_B: Tensor,
    ref_rejected_B: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """−E[(1−ε) log σ(β h) + ε log σ(−β h)], h = (log π/π_ref)(chosen) − (log π/π_ref)(rejected). Shape [].

    The log-probabilities are sums over counted tokens; mean over pairs. Source: Rafailov et al. 2023
    (arXiv 2305.18290), equation 7; ε as in conservative DPO (Mitchell 2023).
    """
    check_same_shape(chosen=chosen_B, rejected=rejected_B, ref_chosen=ref_chosen_B, ref_rejected=ref_rejected_B)
    chosen_reward = beta * (chosen_B - ref_chosen_B)
    rejected_reward = beta * (rejected_B - ref_rejected_B)
    margin = chosen_reward - rejected_reward
    loss = -((1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)).mean()
    metrics = {
        "chosen_reward": chosen_reward.detach().mean(),
        "rejected_reward": rejected_reward.detach().mean(),
        "margin": margin.detach().mean(),
        "accuracy": (margin.detach() > 0).float().mean(),
    }
    return loss, metrics


def bradley_terry_loss(first_B: Tensor, second_B: Tensor, preference_B: Tensor) -> Tensor:
    """−E[p log σ(s₁ − s₂) + (1−p) log σ(s₂ − s₁)], p = P(first is better); mean over pairs. Shape [].

    Source: Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), equation 1, with soft labels.
    """
    check_same_shape(first=first_B, second=second_B, preference=preference_B)
    margin = first_B - second_B
    return -(preference_B * logsigmoid(margin) + (1 - preference_B) * logsigmoid(-margin)).mean()
