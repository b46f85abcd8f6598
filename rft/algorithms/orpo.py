"""Odds ratio preference optimisation: imitate the better response, and prefer it by its odds, without a reference.

Objective: min E[−m_w + λ ℓ_OR], m the mean log-probability of a response's tokens, ℓ_OR = −log σ(log odds_w − log
odds_l): Hong et al. 2024 (arXiv 2403.07691, equations 6 and 7).
Deviation: it starts from the supervised policy, as every arm does; the paper's needs none.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rft.algorithms.simpo import SimPO
from rft.config import PreferenceConfig, loguniform, number
from rft.ops.preference import odds_ratio_loss


@dataclass
class Config(PreferenceConfig):
    """Settings of ORPO."""

    lr: float = 5e-4
    """Learning rate of the policy's adapter; full fine-tuning wants 8e-6 to 5e-6."""
    odds_coef: float = number(0.25, at_least=0, search=loguniform(0.1, 1.0))
    """λ: weight of the odds ratio, searched over the paper's 0.1 to 1."""


class ORPO(SimPO):
    """See the module's docstring."""

    config: Config  # type: ignore[assignment]

    def pair_loss(self, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
        """The loss of each pair from its two mean log-probabilities. Shape [B]."""
        return -chosen_B + self.config.odds_coef * odds_ratio_loss(chosen_B, rejected_B)
