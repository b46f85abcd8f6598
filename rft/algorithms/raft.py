"""Reward-ranked fine-tuning: imitate the best of several responses.

Objective: max E[log π(y*|x)], y* the response with the highest reward of K that the policy gave: Dong et al. 2023
(arXiv 2304.06767, algorithm 1, ranked within each prompt). Repeated, it puts all mass on the best response; nothing
pulls it back to the reference but the number of iterations.
Deviation: one step on each batch, no second pass. A prompt whose responses are all equally good teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import GroupConfig
from rft.models.backbone import Role
from rft.ops.advantages import group_extremes
from rft.ops.enumerable import Enumerable
from rft.ops.masked import masked_mean
from rft.types import LossOutput, OnPolicyBatch, Rollouts


@dataclass
class Config(GroupConfig):
    """Settings of RAFT."""

    minibatches: int = 2
    """Optimiser steps in a pass; must divide the number of prompts."""

    @property
    def batch_rows(self) -> int:
        """One response of each prompt."""
        return self.prompts_per_iteration


class RAFT(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reward"})
    config: Config

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """The best response to each prompt; advantage 1, or 0 if none is better than another."""
        best_G, worst_G = group_extremes(rollouts.rewards, rollouts.group)
        better_G = rollouts.rewards[best_G] > rollouts.rewards[worst_G]
        kept = rollouts[best_G]
        advantages_GR = better_G[:, None] * kept.sequences.response_mask.to(kept.logprobs.dtype)
        return OnPolicyBatch(kept.sequences, kept.logprobs, advantages_GR)

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """Negative log-likelihood of a token."""
        mask = batch.sequences.response_mask
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        return LossOutput(-masked_mean(batch.advantages * logprobs, mask))

    def optimum(self, problem: Enumerable) -> Tensor:
        """All mass on the best response."""
        return problem.kl_regularised(0.0)
