"""Feedback: labels for comparisons, whoever gives them. Dimensions: ``N`` answers, ``M`` pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from rft.budget import Usage
from rft.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to a prompt, both as text."""

    prompt: str
    response: str

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return self.prompt + self.response


@dataclass(frozen=True, slots=True)
class Work:
    """What it took to ask a judge. A verdict that was kept from before counts as it did when it was asked."""

    questions: int = 0  # that were put to it: a pair in both orders is two
    kept: int = 0  # of them, answered from what was kept
    retried: int = 0  # asked a second time, since the first answer could not be read
    excluded: int = 0  # verdicts that are missing, since the second answer could not be read either
    read: int = 0  # tokens, instructions and examples included
    written: int = 0  # tokens
    seconds: float = 0.0  # from question to answer, summed over questions
    money: float | None = None  # what an endpoint asks for it; None: tokens by the budget's price list
    unpriced: int = 0  # tokens, read and written, of answers that cost no money, where others did
    flops: float = 0.0  # of a model in this process

    @property
    def usage(self) -> Usage:
        """What it cost: the money that an endpoint asked for, the tokens for which none did, operations done here."""
        return Usage(judge_tokens=self._unpriced, judge_money=self.money or 0.0, flops=self.flops)

    @property
    def _unpriced(self) -> int:
        return self.read + self.written if self.money is None else self.unpriced

    def __add__(self, other: Work) -> Work:
        paid = [one.money for one in (self, other) if one.money is not None]
        return Work(
            self.questions + other.questions,
            self.kept + other.kept,
            self.retried + other.retried,
            self.excluded + other.excluded,
            self.read + other.read,
            self.written + other.written,
            self.seconds + other.seconds,
            sum(paid) if paid else None,
            self._unpriced + other._unpriced if paid else 0,
            self.flops + other.flops,
        )


@dataclass(frozen=True, slots=True)
class Labels:
    """What a feedback source says about some pairs."""

    scores: NDArray[np.float64]  # [N] in the source's own unit; NaN for an answer that has none
    preference: NDArray[np.float64]  # [M] P(first is better), in [0, 1]; NaN for a pair that is excluded
    raw: list[str]  # [M] JSON of the raw answers
    human_labels: int = 0  # comparisons that people made, or would have: as many a pair as raters saw it
    orders: NDArray[np.float64] | None = None  # [M, 2] P(first is better) where it was shown first, second
    work: Work = field(default_factory=Work)  # of the judge
    source: list[str] | None = None  # [M] who labelled each pair, where a source has several labellers
    stood_in: int = 0  # pairs that people labelled since the judge's verdict could not be read, not since it was unsure

    @property
    def usage(self) -> Usage:
        """What the labels cost."""
        return replace(self.work.usage, labels=len(self.preference), human_labels=self.human_labels)


class Feedback(ABC):
    """A source of labels. The same answers and pairs always get the same labels.

    The constructor takes the module's ``Config`` and, by name, what the source `needs`: a ``judge``, or with
    ``annotators`` the hidden ``gold`` and the model of people that was fitted to it. A source that says it is
    `symmetric` gives 1 − p for a pair in the other order. The labels of one `by_comparison` depend on which other pairs
    are labelled with it: it cannot label fresh responses, which come in parts. Raise `version` when the code changes
    what the labels are: results under the old one are then not reused.
    """

    needs: ClassVar[frozenset[Literal["judge", "annotators"]]] = frozenset()
    symmetric: ClassVar[bool] = False
    by_comparison: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        """Judge which answer of each pair is better.

        Args:
            answers: N of them.
            pairs: rows of `answers`, in the order of presentation. Shape [M, 2].

        Raises:
            ValueError: if `pairs` has another shape or type.
            IndexError: if a pair names a row that there is not.
        """


def or_none(value: float) -> float | None:
    """A number as a table holds it: null for NaN, what is excluded."""
    return None if np.isnan(value) else float(value)


def require_mostly_read(missing: float, asked: float, what: str) -> None:
    """Refuse to go on with verdicts most of which are excluded.

    Raises:
        UserError: if more than half are missing, saying of what.
    """
    if 2 * missing > asked:
        raise UserError(
            f"judge: {missing:.0f} of {asked:.0f} verdicts on {what} could not be read: too few are left; "
            "ask it in another way (judge.form, judge.answers), raise judge.max_tokens if answers are cut, or choose "
            "another judge; `rft judge verdicts` shows what was said"
        )


def check_pairs(answers: Sequence[Answer], pairs: NDArray[np.int64]) -> None:
    """Raises as `Feedback.label` says."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"pairs has shape {pairs.shape} and type {pairs.dtype}: [M, 2] integers are wanted")
    wrong = np.flatnonzero(((pairs < 0) | (pairs >= len(answers))).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise IndexError(f"pair {row} is {pairs[row].tolist()}, but there are {len(answers)} answers (0-based rows)")
