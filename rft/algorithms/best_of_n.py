"""Best of n: the start policy answers n times and the reward source picks. No training.

KL(best-of-n ‖ π_ref) is at most log n − (n−1)/n nats and is reported as that (Beirami et al. 2024, arXiv 2401.01879,
theorem 1). What it gains a nat is hard to beat, so it marks the frontier that training is measured against (Gao et al.
2022, arXiv 2210.10760); it pays with n times the generation at every use.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rft.algorithms.sft import SFT
from rft.config import number
from rft.config.schemas import AlgorithmConfig
from rft.ops.enumerable import Enumerable, best_of_n_law


@dataclass
class Config(AlgorithmConfig):
    """Settings of best of n."""

    n: int = number(4, at_least=1)
    """Responses of which the best is given; 1 is the start policy."""


class BestOfN(SFT):
    """See the module's docstring."""

    needs = frozenset({"reward"})
    config: Config

    @classmethod
    def best_of(cls, config: Config) -> int:
        """n."""
        return config.n

    def optimum(self, problem: Enumerable) -> Tensor:
        """The law of the best of n draws."""
        return best_of_n_law(problem, self.config.n)
