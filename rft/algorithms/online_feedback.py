"""Online DPO whose labels are the feedback source's own: it compares fresh pairs of the policy in every iteration.

Objective: DPO's, on pairs of fresh responses: Guo et al. 2024 (arXiv 2402.04792, algorithm 1). No reward model stands
between source and policy. With `feedback=simulated` people label online, with `feedback=ai` it is `rlaif_online`.
Deviations: by default a pair counts both ways, by the label P(first is better): with hard labels the loss has no
finite optimum, with these, if they are Bradley–Terry's, it has that of reward less β·KL; ``soft_labels=false`` is the
paper's. More than two responses to a prompt are compared two by two. A pair that is a tie or has no label counts
nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rft.algorithms.dpo import LossEnum
from rft.algorithms.online_dpo import Config as OnlineDPOConfig
from rft.algorithms.online_dpo import OnlineDPO
from rft.config import number
from rft.ops.advantages import pairs_in_groups
from rft.ops.enumerable import Enumerable
from rft.types import PreferenceBatch, Rollouts


@dataclass
class Config(OnlineDPOConfig):
    """Settings of online DPO on labels of fresh pairs."""

    samples_per_prompt: int = number(2, at_least=2)
    """Responses to a prompt, compared two by two; an even number."""
    soft_labels: bool = True
    """Weigh both orders of a pair by its label."""
    same_optimiser: ClassVar[bool] = True

    @property
    def batch_rows(self) -> int:
        """Pairs of an iteration."""
        return self.prompts_per_iteration * self.samples_per_prompt // 2

    def conflict(self) -> str | None:
        """An odd response would have none to be compared with."""
        if self.samples_per_prompt % 2:
            return (
                f"samples_per_prompt={self.samples_per_prompt}: responses are compared two by two; give an even number"
            )
        return super().conflict()


class OnlineFeedback(OnlineDPO):
    """See the module's docstring."""

    needs = frozenset({"reference", "feedback"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"soft_labels": False}, {"loss": "ipo", "beta": 0.5})
    config: Config

    def prepare(self, rollouts: Rollouts) -> PreferenceBatch:
        """The pairs as they were labelled, the better response as chosen."""
        assert rollouts.preferences is not None  # both checked by the base class
        assert rollouts.ref_logprobs is not None
        first_M, second_M = pairs_in_groups(rollouts.group)
        preference_M = rollouts.preferences[first_M]
        better_M = preference_M >= 0.5
        chosen_M, rejected_M = torch.where(better_M, first_M, second_M), torch.where(better_M, second_M, first_M)
        sure_M = torch.maximum(preference_M, 1 - preference_M)
        if not self.config.soft_labels:
            sure_M = 0.5 + 0.5 * (sure_M > 0.5).to(sure_M)
        ref_B, seq = rollouts.ref_logprobs.sum(-1), rollouts.sequences
        return PreferenceBatch(seq[chosen_M], seq[rejected_M], sure_M, ref_B[chosen_M], ref_B[rejected_M])

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """Online DPO's, of labels by Bradley and Terry on the problem's rewards; IPO's for any number of pairs."""
        if self.config.loss is LossEnum.ipo:
            return problem.from_own_ipo(self.config.beta, soft=self.config.soft_labels)
        return super().optimum(problem)
