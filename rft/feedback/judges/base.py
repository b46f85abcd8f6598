"""What a judge gives. Dimensions: ``N`` texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores of single texts, higher is better, with the raw answers."""

    scores: NDArray[np.float64]  # [N], finite
    raw: list[Mapping[str, Any]]  # [N] what was answered, as JSON objects
    tokens: int = 0  # read by the judge for them, its instructions and examples with every text


class Judge(ABC):
    """Scores texts one by one.

    The constructor takes the module's ``Config`` and, if the judge `needs` ``model``, by name the study's ``model``
    and ``tokenizer``; a judge with a model of its own declares ``needs = frozenset()``. Raise `version` when the code
    changes what the scores are: results under the old one are then not reused.
    """

    needs: ClassVar[frozenset[Literal["model"]]] = frozenset({"model"})
    version: ClassVar[int] = 1

    @abstractmethod
    def score(self, texts: Sequence[str]) -> Verdicts:
        """A score for each text, which does not depend on the other texts but for rounding.

        Any string is a text: an empty one too, or one with braces, quotes, line ends or emoji. No texts, no scores.
        """
