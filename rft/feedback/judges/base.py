"""What a judge gives. Dimensions: ``N`` texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores of single texts, higher is better, with the raw answers."""

    scores: NDArray[np.float64]  # [N]
    raw: list[Mapping[str, float]]  # [N]


class Judge(ABC):
    """Scores texts one by one."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> Verdicts:
        """A score for each text, which does not depend on the other texts but for rounding."""
