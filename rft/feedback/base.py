"""Feedback: labels for comparisons, whoever gives them. Dimensions: ``N`` texts, ``M`` pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Labels:
    """What a feedback source says about some pairs."""

    scores: NDArray[np.float64]  # [N] in the source's own unit; NaN for a text that it was not asked about
    preference: NDArray[np.float64]  # [M] P(first is better), in [0, 1]
    raw: list[str]  # [M] JSON of the raw answers
    human_labels: int = 0  # comparisons that people made, or would have: as many a pair as raters saw it
    judge_tokens: int = 0  # tokens that a judge read


class Feedback(ABC):
    """A source of labels. The same texts and pairs always get the same labels.

    The constructor takes the module's ``Config`` and, by name, what the source `needs`: a ``judge``, or with
    ``annotators`` the hidden ``gold`` and the model of people that was fitted to it. A source that says it is
    `symmetric` gives 1 − p for a pair in the other order. Raise `version` when the code changes what the labels are:
    results under the old one are then not reused.
    """

    needs: ClassVar[frozenset[Literal["judge", "annotators"]]] = frozenset()
    symmetric: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def label(self, texts: Sequence[str], pairs: NDArray[np.int64]) -> Labels:
        """Judge which text of each pair is better.

        Args:
            texts: N texts, each a prompt and its response as one text.
            pairs: rows of `texts`, in the order of presentation. Shape [M, 2].

        Raises:
            ValueError: if `pairs` has another shape or type.
            IndexError: if a pair names a row that there is not.
        """


def check_pairs(texts: Sequence[str], pairs: NDArray[np.int64]) -> None:
    """Raises as `Feedback.label` says."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"pairs has shape {pairs.shape} and type {pairs.dtype}: [M, 2] integers are wanted")
    wrong = np.flatnonzero(((pairs < 0) | (pairs >= len(texts))).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise IndexError(f"pair {row} is {pairs[row].tolist()}, but there are {len(texts)} texts (0-based rows)")
