"""Proximal policy optimisation with a critic, for language models.

Objective: max E[r(x, y)] − β E[Σ_t log π(y_t)/π_ref(y_t)], by the clipped surrogate of Schulman et al. 2017
(arXiv 1707.06347, equation 7) over tokens, advantages from GAE (arXiv 1506.02438), in the way of Huang et al. 2024
(arXiv 2403.17031): the reward lands on the last counted token, the critic starts from the reward model, advantages
are whitened over the rollouts of all ranks, values are clipped, dropout is off. The KL coefficient is fixed or
follows the controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).
Deviation: policy and critic are adapters on one backbone, or one, and share one optimiser and one clipping norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import OnPolicyConfig, loguniform, number
from rft.models.backbone import Backbone, Role
from rft.ops.advantages import gae, token_rewards
from rft.ops.enumerable import Enumerable
from rft.ops.kl import kl_k1
from rft.ops.losses import clipped_value_loss, ppo_policy_loss
from rft.ops.masked import masked_mean, whiten
from rft.types import LossOutput, OnPolicyBatch, Rollouts


@dataclass
class Config(OnPolicyConfig):
    """Settings of PPO."""

    lr: float = 1e-3
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-5 to 1e-6."""
    iterations: int = 20
    """Rollout iterations."""
    minibatches: int = 4
    """Optimiser steps in a pass: one a pass moved an adapter too little, at the same cost."""
    critic_on_policy: bool = False
    """A head on the policy's hidden states as critic (Ziegler et al. 2019): a pass less, and it moves the policy."""
    critic_lr: float = number(1e-3, above=0, search=loguniform(1e-4, 1e-2))
    """Learning rate of the critic's own; searched a decade to both sides."""
    kl_coef: float = number(0.1, at_least=0, search=loguniform(0.01, 0.3))
    """β: reward units (standard deviations of the reward model) per nat; searched around 0.02 (Ouyang et al. 2022) and
    0.05 (Stiennon et al. 2020)."""
    kl_target: float | None = number(None, above=0)
    """Nats per sequence that the adaptive controller aims at; none keeps kl_coef fixed."""
    kl_horizon: int = number(1000, at_least=1)
    """Rollouts over which the controller corrects a full deviation (Ziegler et al. use 10,000 on 2 M episodes)."""
    gamma: float = number(1.0, at_least=0, at_most=1)
    """Discount; 1 for episodic text (Huang et al., detail 7)."""
    lam: float = number(0.95, at_least=0, at_most=1)
    """GAE's λ in [0, 1]."""
    clip_range: float = number(0.2, above=0)
    """ε of the policy's clip."""
    dual_clip: float | None = number(None, above=1)
    """Most that a token of negative advantage pulls, in units of it (Ye et al. 2020); none: without bound."""
    entropy_coef: float = number(0.0, at_least=0)
    """Weight of the entropy bonus, per nat and token."""
    value_clip_range: float = number(0.2, above=0)
    """ε of the value's clip."""
    vf_coef: float = number(0.1, at_least=0)
    """Weight of the value loss (Huang et al., table 2)."""
    whiten_advantages: bool = True
    """Zero mean and unit variance over counted tokens of all ranks."""
    truncation_penalty: float = number(0.5, at_least=0)
    """Reward units subtracted from the reward of a response without EOS (Huang et al., detail 4)."""


class PPO(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reference", "value", "reward"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"entropy_coef": 0.01, "dual_clip": 3.0, "gamma": 0.99, "critic_on_policy": True},
    )
    config: Config
    kl_coef: torch.Tensor

    def __init__(self, config: Config, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.register_buffer("kl_coef", torch.tensor(config.kl_coef, dtype=torch.float64))

    @classmethod
    def critic_on_policy(cls, config: Config) -> bool:
        """As configured."""
        return config.critic_on_policy

    @property
    def critic_lr(self) -> float:
        """The critic's own learning rate."""
        return self.config.critic_lr

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """Rewards less KL at each token, GAE, whitening; then the KL controller's step."""
        if rollouts.ref_logprobs is None or rollouts.values is None:
            raise ValueError("PPO needs reference log-probs and values; build the rollouts with its `needs`")
        config, mask = self.config, rollouts.sequences.response_mask
        rewards = rollouts.rewards - config.truncation_penalty * rollouts.truncated
        per_token = token_rewards(rewards, kl_k1(rollouts.logprobs, rollouts.ref_logprobs), mask, float(self.kl_coef))
        advantages, returns = gae(per_token, rollouts.values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        self._control_kl(float(rollouts.metrics["rollout/kl"]))
        return OnPolicyBatch(
            rollouts.sequences, rollouts.logprobs, advantages, returns, rollouts.values, rollouts.ref_logprobs
        )

    def _control_kl(self, kl: float) -> None:
        """β ← β (1 + clip(KL/target − 1, ±0.2) · rollouts/horizon)."""
        if self.config.kl_target is None:
            return
        error = min(max(kl / self.config.kl_target - 1, -0.2), 0.2)
        self.kl_coef.mul_(1 + error * self.config.batch_rows / self.config.kl_horizon)

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """Clipped surrogate plus vf_coef times the clipped value loss."""
        if batch.values is None or batch.returns is None:
            raise ValueError("PPO's loss needs values and returns; make the batch with its prepare()")
        config, mask = self.config, batch.sequences.response_mask
        logprobs, entropy = self.backbone.logprobs(Role.policy, batch.sequences, config.temperature), None
        if config.entropy_coef:
            entropy = masked_mean(self.backbone.entropy(Role.policy, batch.sequences, config.temperature), mask)
        policy_loss, metrics = ppo_policy_loss(
            logprobs, batch.logprobs, batch.advantages, mask, config.clip_range, dual_clip=config.dual_clip
        )
        values = self.backbone.values(batch.sequences)
        value_loss = clipped_value_loss(values, batch.values, batch.returns, mask, config.value_clip_range)
        metrics |= {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "value": masked_mean(values, mask),
            "kl_coef": self.kl_coef,
        }
        loss = policy_loss + config.vf_coef * value_loss
        if entropy is not None:
            loss, metrics["entropy"] = loss - config.entropy_coef * entropy, entropy
        return LossOutput(loss, metrics)

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """π_ref exp(r/β), normalised, r less the penalty; a discount, a moving β or a bonus has no such form."""
        if self.config.gamma != 1 or self.config.kl_target is not None or self.config.entropy_coef:
            return None
        return problem.kl_regularised(
            self.config.kl_coef, problem.rewards - self.config.truncation_penalty * problem.truncated
        )
