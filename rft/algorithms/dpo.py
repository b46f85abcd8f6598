"""Direct preference optimisation, and the losses that differ from it in one line.

Objective: min E[ℓ(r_w, r_l)], r_w = log π/π_ref of the chosen and r_l of the rejected response, Rafailov et al. 2023
(arXiv 2305.18290, equation 7): with the sigmoid loss −log σ(β (r_w − r_l)) the closed-form optimum of reward less
β·KL under Bradley–Terry preferences, without a reward model. The other losses are in ``rft.ops.preference``.
Pairs and labels are those from which the reward model of the other arms learns. No deviation; labels are taken as
hard (the better response of each pair).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor

from rft.algorithms.base import Algorithm, DataKind
from rft.config import PreferenceConfig, loguniform, number
from rft.models.backbone import Role
from rft.ops import preference as losses
from rft.ops.enumerable import Enumerable
from rft.ops.masked import row_mean
from rft.types import LossOutput, PreferenceBatch


class LossEnum(str, Enum):
    """Losses on a pair."""

    sigmoid = "sigmoid"
    ipo = "ipo"
    hinge = "hinge"
    robust = "robust"
    cdpo = "cdpo"
    sppo = "sppo"
    apo_zero = "apo_zero"


@dataclass
class PairLossConfig:
    """What makes the loss of a pair."""

    loss: LossEnum = LossEnum.sigmoid
    """sigmoid (DPO), ipo, hinge (SLiC), robust and cdpo (both for flipped labels), sppo, apo_zero."""
    beta: float = number(0.1, above=0, search=loguniform(0.01, 1.0))
    """β above 0: the strength of the pull to the reference (the paper's default); searched from 0.01 (Meng et al. 2024,
    table 7) to 1 (the paper's frontier on this task has 0.05 to 5)."""
    label_smoothing: float | None = number(None, at_least=0, below=0.5)
    """ε, the assumed share of flipped labels in [0, 0.5), for robust and cdpo alone; none takes 0.1 there."""

    @property
    def smoothing(self) -> float:
        """ε of robust and cdpo."""
        return 0.1 if self.label_smoothing is None else self.label_smoothing

    def conflict(self) -> str | None:
        """The other losses know no flipped labels."""
        if self.label_smoothing is not None and self.loss not in (LossEnum.robust, LossEnum.cdpo):
            return f"label_smoothing={self.label_smoothing}: loss={self.loss.value} has none; take robust or cdpo"
        return None


@dataclass
class Config(PairLossConfig, PreferenceConfig):
    """Settings of DPO."""

    lr: float = 5e-4
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-6 to 5e-7."""


# Of the log-ratios [B] of the chosen and the rejected response, and the settings.
_LOSSES: Mapping[LossEnum, Callable[[Tensor, Tensor, PairLossConfig], Tensor]] = {
    LossEnum.sigmoid: lambda won, lost, c: losses.sigmoid_loss(won, lost, c.beta),
    LossEnum.ipo: lambda won, lost, c: losses.ipo_loss(won, lost, c.beta),
    LossEnum.hinge: lambda won, lost, c: losses.hinge_loss(won, lost, c.beta),
    LossEnum.robust: lambda won, lost, c: losses.robust_loss(won, lost, c.beta, c.smoothing),
    LossEnum.cdpo: lambda won, lost, c: losses.conservative_loss(won, lost, c.beta, c.smoothing),
    LossEnum.sppo: lambda won, lost, c: losses.sppo_loss(won, lost, c.beta),
    LossEnum.apo_zero: lambda won, lost, c: losses.apo_zero_loss(won, lost, c.beta),
}


class DPO(Algorithm):
    """See the module's docstring."""

    data_kind: ClassVar[DataKind] = "preference"
    needs = frozenset({"reference"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        *({"loss": loss.value, "beta": 0.5} for loss in LossEnum if loss is not LossEnum.sigmoid),
    )
    config: Config
    temperature = 1.0  # at which log-probs are taken

    def pair_loss(self, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
        """The loss of each pair from its two log-ratios. Shape [B]."""
        return _LOSSES[self.config.loss](chosen_B, rejected_B, self.config)

    def expected_loss(self, chosen_B: Tensor, rejected_B: Tensor, preference_B: Tensor) -> Tensor:
        """The loss of each pair as it is labelled: hard. Shape [B]."""
        return self.pair_loss(chosen_B, rejected_B)

    def loss(self, batch: PreferenceBatch) -> LossOutput:
        """Mean over decided pairs."""
        if batch.ref_chosen_logprobs is None or batch.ref_rejected_logprobs is None:
            raise ValueError(f"{type(self).__name__} needs the reference's log-probs; build the pairs with its `needs`")
        won_B, lost_B = self.backbone.logprobs(Role.policy, batch.both, self.temperature).sum(-1).chunk(2)
        chosen_B, rejected_B = won_B - batch.ref_chosen_logprobs, lost_B - batch.ref_rejected_logprobs
        loss_B = self.expected_loss(chosen_B, rejected_B, batch.preference)
        w_B, l_B = (self.config.beta * x_B.detach() for x_B in (chosen_B, rejected_B))
        shown = {"chosen_reward": w_B, "rejected_reward": l_B, "margin": w_B - l_B, "accuracy": (w_B > l_B).to(w_B)}
        return LossOutput(
            row_mean(loss_B, batch.decided), {name: row_mean(x_B, batch.decided) for name, x_B in shown.items()}
        )

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """For the sigmoid π_ref exp(r/β), normalised; for IPO its own; else what minimises the loss on pairs."""
        if self.config.loss is LossEnum.sigmoid:
            return problem.kl_regularised(self.config.beta)
        if self.config.loss is LossEnum.ipo:
            return problem.from_ipo(self.config.beta)
        if self.config.loss is LossEnum.hinge:
            return problem.from_hinge(self.config.beta)
        return problem.from_pairs(self.pair_loss)
