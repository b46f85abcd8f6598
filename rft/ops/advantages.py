"""Credit assignment. Dimensions: ``B`` sequences, ``R`` response tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rft.ops.masked import check_same_shape


def token_rewards(sequence_rewards_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, kl_coef: float | Tensor) -> Tensor:
    """−kl_coef · KL at each counted token, plus the sequence's reward at the last of them. Shape [B, R].

    Source: Ziegler et al. 2019 (arXiv 1909.08593), equation 2. A sequence without counted tokens gets nothing.
    """
    check_same_shape(kl=kl_BR, mask=mask_BR)
    rewards = torch.where(mask_BR, -kl_coef * kl_BR, torch.zeros_like(kl_BR))
    lengths = mask_BR.sum(-1)
    last = (lengths - 1).clamp(min=0)[:, None]
    at_end = torch.where(lengths > 0, sequence_rewards_B, torch.zeros_like(sequence_rewards_B))
    return rewards.scatter_add(1, last, at_end[:, None].to(rewards.dtype))


def gae(rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation. Two tensors [B, R]: advantages and returns, zero outside the mask.

    δ_t = r_t + γ V_{t+1} − V_t,  A_t = δ_t + γλ A_{t+1},  return_t = A_t + V_t,
    with V = 0 after the last counted token (Schulman et al. 2015, arXiv 1506.02438, equation 16).
    """
    check_same_shape(rewards=rewards_BR, values=values_BR, mask=mask_BR)
    zero = torch.zeros_like(values_BR)
    v_BR = torch.where(mask_BR, values_BR, zero)
    r_BR = torch.where(mask_BR, rewards_BR, zero)
    advantages = torch.zeros_like(v_BR)
    running = torch.zeros_like(v_BR[:, 0])
    v_next = torch.zeros_like(running)
    for t in reversed(range(v_BR.shape[1])):
        delta = r_BR[:, t] + gamma * v_next - v_BR[:, t]
        running = torch.where(mask_BR[:, t], delta + gamma * lam * running, running)
        advantages[:, t] = torch.where(mask_BR[:, t], running, zero[:, t])
        v_next = torch.where(mask_BR[:, t], v_BR[:, t], v_next)
    return advantages, torch.where(mask_BR, advantages + v_BR, zero)
