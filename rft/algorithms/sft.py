"""No improvement: the start policy as it is, the control that every other arm is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config.schemas import AlgorithmConfig
from rft.ops.enumerable import Enumerable
from rft.types import LossOutput


@dataclass
class Config(AlgorithmConfig):
    """Nothing to set."""


class SFT(Algorithm):
    """The supervised policy, not trained any further."""

    data_kind = "none"

    def loss(self, batch: object) -> LossOutput:
        """There is none."""
        raise TypeError(f"{self.config.name} is evaluated, not trained")

    def optimum(self, problem: Enumerable) -> Tensor:
        """The reference."""
        return problem.reference.exp()
