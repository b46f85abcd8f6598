"""REINFORCE with a leave-one-out baseline.

Objective: max E[r(x, y)] − β KL(π ‖ π_ref), by −E[A log π(y|x)] over whole responses, A = R − mean of the other
responses' R, R = r − β Σ_t log π/π_ref: Ahmadian et al. 2024 (arXiv 2402.14740, section 3.2 and equation 8), after
Kool et al. 2019. Deviation: with several steps an iteration the likelihood ratio of the response, clipped, stands in
place of log π; on the first step both have the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import GroupConfig, loguniform, number
from rft.models.backbone import Role
from rft.ops.advantages import leave_one_out
from rft.ops.enumerable import Enumerable
from rft.ops.kl import sequence_kl
from rft.ops.losses import clipped_surrogate
from rft.ops.masked import masked_mean
from rft.types import LossOutput, OnPolicyBatch, Rollouts


@dataclass
class Config(GroupConfig):
    """Settings of RLOO."""

    kl_coef: float = number(0.1, at_least=0, search=loguniform(0.01, 0.3))
    """β: reward units per nat; searched as PPO's."""
    clip_range: float = number(0.2, above=0)
    """ε of the clip of the response's ratio."""


class RLOO(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reference", "reward"})
    config: Config

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """The leave-one-out advantage of the reward less KL, at every token."""
        mask = rollouts.sequences.response_mask
        assert rollouts.ref_logprobs is not None  # checked by the base class
        kl_B = sequence_kl(rollouts.logprobs, rollouts.ref_logprobs, mask)
        rewards_B = rollouts.rewards - self.config.kl_coef * kl_B
        advantages_B = leave_one_out(rewards_B, rollouts.group, mask.any(-1))
        return OnPolicyBatch(rollouts.sequences, rollouts.logprobs, advantages_B[:, None] * mask)

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """Clipped surrogate over whole responses, mean over responses."""
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        whole = torch.ones(len(batch), 1, dtype=torch.bool, device=logprobs.device)
        clip = self.config.clip_range
        loss_B1, metrics = clipped_surrogate(
            logprobs.sum(-1, keepdim=True),
            batch.logprobs.sum(-1, keepdim=True),
            batch.advantages[:, :1],  # of a response, at its first token; 0 if none of its tokens counts
            whole,
            clip,
            clip,
        )
        return LossOutput(masked_mean(loss_B1, whole), metrics)

    def loss_count(self, batch: OnPolicyBatch) -> int:
        """Responses."""
        return len(batch)

    def optimum(self, problem: Enumerable) -> Tensor:
        """π_ref exp(r/β), normalised."""
        return problem.kl_regularised(self.config.kl_coef)
