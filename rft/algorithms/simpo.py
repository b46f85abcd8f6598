"""Simple preference optimisation: DPO's idea without a reference, on the mean log-probability of a token.

Objective: min −E[log σ(β (m_w − m_l) − γ)], m the mean log-probability of a response's tokens: Meng et al. 2024 (arXiv
2405.14734, equation 6). Nothing but the learning rate and the number of steps keeps it near the start policy. No
deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import PreferenceConfig, number, uniform
from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable
from rft.ops.masked import row_mean
from rft.ops.preference import simpo_loss
from rft.types import LossOutput, PreferenceBatch, Sequences


@dataclass
class Config(PreferenceConfig):
    """Settings of SimPO."""

    lr: float = 5e-4
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-6 to 3e-7."""
    beta: float = number(2.0, above=0, search=uniform(1.0, 10.0))
    """β: the scale of the margin (the paper searches 2.0 to 2.5, its authors' later runs go to 10)."""
    margin: float = number(1.0, at_least=0, search=uniform(0.3, 1.6))
    """γ: by how much the better response is to lead, on the scale of β (the paper: γ/β 0.3 to 1.6)."""


class SimPO(Algorithm):
    """See the module's docstring."""

    data_kind = "preference"
    config: Config

    def mean_logprobs(self, seq: Sequences) -> Tensor:
        """Mean log-probability of each response's tokens. Shape [B]."""
        return self.backbone.logprobs(Role.policy, seq).sum(-1) / seq.lengths

    def pair_loss(self, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
        """The loss of each pair from its two mean log-probabilities. Shape [B]."""
        return simpo_loss(chosen_B, rejected_B, self.config.beta, self.config.margin)

    def loss(self, batch: PreferenceBatch) -> LossOutput:
        """Mean over decided pairs."""
        chosen_B, rejected_B = self.mean_logprobs(batch.both).chunk(2)
        w_B, l_B = chosen_B.detach(), rejected_B.detach()
        shown = {"chosen_logprob": w_B, "rejected_logprob": l_B, "accuracy": (w_B > l_B).to(w_B)}
        return LossOutput(
            row_mean(self.pair_loss(chosen_B, rejected_B), batch.decided),
            {name: row_mean(x_B, batch.decided) for name, x_B in shown.items()},
        )

    def optimum(self, problem: Enumerable) -> Tensor:
        """What minimises the loss over all pairs."""
        return problem.from_pairs(self.pair_loss, per_token=True)
