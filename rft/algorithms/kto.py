"""Kahneman–Tversky optimisation: from single responses called good or bad.

Objective: min E[λ_D (1 − σ(β (r − z₀)))] over good and E[λ_U (1 − σ(β (z₀ − r)))] over bad responses, r = log π/π_ref,
z₀ = max(0, KL(π ‖ π_ref)) from prompts with other prompts' responses, without gradient: Ethayarajh et al. 2024 (arXiv
2402.01306, equation 8). Every comparison gives one good and one bad response.
Deviation: z₀ is the mean over a whole optimiser step, on all ranks, so that it does not depend on microbatches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import PreferenceConfig, loguniform, number
from rft.data.ranks import all_sum
from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable
from rft.ops.preference import kto_loss
from rft.types import LossOutput, UnpairedBatch


@dataclass
class Config(PreferenceConfig):
    """Settings of KTO."""

    lr: float = 5e-4
    """Learning rate of the policy's adapter; full fine-tuning wants 5e-7 to 5e-6."""
    beta: float = number(0.1, above=0, search=loguniform(0.01, 1.0))
    """β above 0: how soon a gain or a loss saturates (the paper's default); searched as DPO's."""
    desirable_weight: float = number(1.0, at_least=0)
    """λ_D."""
    undesirable_weight: float = number(1.0, at_least=0)
    """λ_U."""


class KTO(Algorithm):
    """See the module's docstring."""

    data_kind = "unpaired"
    needs = frozenset({"reference"})
    config: Config

    @torch.no_grad()
    def prepare_step(self, batch: UnpairedBatch) -> UnpairedBatch:
        """z₀ of the step."""
        assert batch.ref_mismatched_logprobs is not None  # `needs` has the reference
        ratios_B = self.backbone.logprobs(Role.policy, batch.mismatched).sum(-1) - batch.ref_mismatched_logprobs
        total, count = all_sum([float(ratios_B.double().sum()), len(ratios_B)])
        return replace(batch, kl=ratios_B.new_tensor(max(total / count, 0.0)))

    def loss(self, batch: UnpairedBatch) -> LossOutput:
        """Mean over responses."""
        assert batch.ref_logprobs is not None
        assert batch.kl is not None
        ratios_B = self.backbone.logprobs(Role.policy, batch.sequences).sum(-1) - batch.ref_logprobs
        loss_B = self.response_loss(ratios_B, batch.desirable, batch.kl)
        reward_B = self.config.beta * ratios_B.detach()
        # Over all responses, as the loss is: a microbatch may have no good one to take a mean over.
        margin = torch.where(batch.desirable, reward_B, -reward_B).mean()
        return LossOutput(loss_B.mean(), {"margin": margin, "kl": batch.kl})

    def response_loss(self, ratios_B: Tensor, desirable_B: Tensor, kl: Tensor) -> Tensor:
        """The loss of each response from its log-ratio. Shape [B]."""
        config = self.config
        return kto_loss(ratios_B, desirable_B, kl, config.beta, config.desirable_weight, config.undesirable_weight)

    def optimum(self, problem: Enumerable) -> Tensor:
        """Where minimising the loss at a fixed z₀ gives back that z₀."""
        kl = torch.zeros((), dtype=torch.float64)
        for _ in range(50):

            def loss(chosen_N: Tensor, rejected_N: Tensor, z0: Tensor = kl) -> Tensor:
                good = torch.ones_like(chosen_N, dtype=torch.bool)
                return self.response_loss(chosen_N, good, z0) + self.response_loss(rejected_N, ~good, z0)

            policy_XY = problem.from_pairs(loss)
            z0 = (policy_XY.clamp(min=1e-30).log() - problem.reference).mean().clamp(min=0)
            if abs(float(z0 - kl)) < 1e-6:
                break
            kl = (kl + z0) / 2
        return policy_XY
