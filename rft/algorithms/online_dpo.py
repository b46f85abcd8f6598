"""Online DPO: the policy's own responses, labelled by the reward source, under DPO's loss.

Objective: DPO's, on the best and the worst of K fresh responses to each prompt: Guo et al. 2024 (arXiv 2402.04792,
algorithm 1), with the reward source in the annotator's place.
Deviation: by default a pair counts both ways, by P(best is better) = σ(r_best − r_worst): with hard labels the loss
has no finite optimum, with these it has that of reward less β·KL. ``soft_labels=false`` is the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rft.algorithms.base import DataKind
from rft.algorithms.dpo import DPO, LossEnum, PairLossConfig
from rft.config import OnPolicyConfig, number
from rft.ops.advantages import group_extremes
from rft.ops.enumerable import Enumerable
from rft.types import PreferenceBatch, Rollouts


@dataclass
class Config(PairLossConfig, OnPolicyConfig):
    """Settings of online DPO."""

    lr: float = 1e-3
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-6 to 5e-7."""
    prompts_per_iteration: int = 16
    """Pairs in an iteration, over all ranks."""
    samples_per_prompt: int = number(2, at_least=2)
    """Responses to a prompt, of which the best and the worst make the pair."""
    minibatches: int = 2
    """Optimiser steps in a pass; must divide the number of prompts."""
    soft_labels: bool = True
    """Weigh both orders of a pair by how sure the reward source is."""

    @property
    def batch_rows(self) -> int:
        """One pair of each prompt."""
        return self.prompts_per_iteration


class OnlineDPO(DPO):
    """See the module's docstring."""

    data_kind: ClassVar[DataKind] = "on_policy"
    needs = frozenset({"reference", "reward"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"soft_labels": False}, {"loss": "ipo", "beta": 0.5})
    config: Config  # type: ignore[assignment]

    @property
    def temperature(self) -> float:  # type: ignore[override]
        """That of the rollouts."""
        return self.config.temperature

    def prepare(self, rollouts: Rollouts) -> PreferenceBatch:
        """The best and the worst response to each prompt; a tie if they are equally good."""
        best_G, worst_G = group_extremes(rollouts.rewards, rollouts.group)
        margin_G = rollouts.rewards[best_G] - rollouts.rewards[worst_G]
        preference_G = torch.sigmoid(margin_G) if self.config.soft_labels else 0.5 + 0.5 * (margin_G > 0).to(margin_G)
        assert rollouts.ref_logprobs is not None  # checked by the base class
        ref_B = rollouts.ref_logprobs.sum(-1)
        seq = rollouts.sequences
        return PreferenceBatch(seq[best_G], seq[worst_G], preference_G, ref_B[best_G], ref_B[worst_G])

    def expected_loss(self, chosen_B: Tensor, rejected_B: Tensor, preference_B: Tensor) -> Tensor:
        """Both orders, by their probabilities; with hard labels the first alone. Shape [B]."""
        swapped_B = self.pair_loss(rejected_B, chosen_B)
        return preference_B * self.pair_loss(chosen_B, rejected_B) + (1 - preference_B) * swapped_B

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """With soft labels DPO's; with hard ones all mass on the best response. IPO's, of two responses a prompt, is
        the equilibrium of self-play. None is known for the other losses, which depend on how often a pair is drawn.
        """
        if self.config.loss is LossEnum.ipo and self.config.samples_per_prompt == 2:
            return problem.from_own_ipo(self.config.beta, soft=self.config.soft_labels)
        if self.config.loss is not LossEnum.sigmoid:
            return None
        return super().optimum(problem) if self.config.soft_labels else problem.kl_regularised(0.0)
