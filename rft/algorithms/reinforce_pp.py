"""REINFORCE++: PPO's clip without a critic, advantages normalised over the whole batch.

Objective: max E[r(x, y)] − β KL(π ‖ π_ref), by the clipped surrogate over tokens; the advantage of a token is the sum
of the rewards from it on (the response's reward at its last token, less β times k1 at each), to zero mean and unit
variance over all tokens of all ranks: Hu 2025 (arXiv 2501.03262, sections 3.2 and 3.3).
Settings: ``group_baseline`` takes the mean reward of the responses to a prompt off first (REINFORCE++-baseline, section
3.4; the paper then adds its KL to the loss, here it stays in the reward). That mean has the response itself in it, so
the reward, and not the KL, shrinks by (k−1)/k, k the responses to a prompt: a bias that RLOO does not have. No other
deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import OnPolicyConfig, loguniform, number
from rft.models.backbone import Role
from rft.ops.advantages import group_relative, rewards_to_go, token_rewards
from rft.ops.enumerable import Enumerable
from rft.ops.kl import kl_k1
from rft.ops.losses import ppo_policy_loss
from rft.ops.masked import whiten
from rft.types import LossOutput, OnPolicyBatch, Rollouts


@dataclass
class Config(OnPolicyConfig):
    """Settings of REINFORCE++."""

    lr: float = 1e-3
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-5 to 1e-6."""
    minibatches: int = 4
    """Optimiser steps in a pass."""
    kl_coef: float = number(0.1, at_least=0, search=loguniform(0.01, 0.3))
    """β: reward units per nat; searched as PPO's."""
    gamma: float = number(1.0, at_least=0, at_most=1)
    """Discount."""
    clip_range: float = number(0.2, above=0)
    """ε of the clip."""
    group_baseline: bool = False
    """Take off the mean reward of a prompt's responses; needs two samples a prompt or more."""

    def conflict(self) -> str | None:
        """A lone response less its own mean is nothing."""
        if self.group_baseline and self.samples_per_prompt < 2:
            return f"samples_per_prompt={self.samples_per_prompt}: group_baseline needs 2 or more; raise it"
        return None


class ReinforcePP(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reference", "reward"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"group_baseline": True, "samples_per_prompt": 4})
    config: Config

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """Rewards to go, whitened over all tokens."""
        config, mask = self.config, rollouts.sequences.response_mask
        assert rollouts.ref_logprobs is not None  # checked by the base class
        rewards_B = rollouts.rewards
        if config.group_baseline:
            rewards_B = group_relative(rewards_B, rollouts.group, mask.any(-1), scale=False)
        kl_BR = kl_k1(rollouts.logprobs, rollouts.ref_logprobs)
        returns_BR = rewards_to_go(token_rewards(rewards_B, kl_BR, mask, config.kl_coef), mask, config.gamma)
        return OnPolicyBatch(rollouts.sequences, rollouts.logprobs, whiten(returns_BR, mask))

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """Clipped surrogate, mean over tokens."""
        config, mask = self.config, batch.sequences.response_mask
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, config.temperature)
        loss, metrics = ppo_policy_loss(logprobs, batch.logprobs, batch.advantages, mask, config.clip_range)
        return LossOutput(loss, metrics)

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """π_ref exp(r/β), normalised, r times (k−1)/k with a group's baseline; a discount below 1 has no such form."""
        if self.config.gamma != 1:
            return None
        k = self.config.samples_per_prompt
        shrunk = (k - 1) / k if self.config.group_baseline else 1.0
        return problem.kl_regularised(self.config.kl_coef, problem.rewards * shrunk)
