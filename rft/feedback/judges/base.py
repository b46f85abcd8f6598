"""What a judge gives. Dimensions: ``N`` answers, ``M`` pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from rft.errors import UserError
from rft.feedback.base import Answer, Work, check_pairs
from rft.feedback.judges.placed import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rft.store import Entry, Store

Need = Literal["model", "verdicts", "annotators", "entries"]
JUDGE_ENTRY = "judge_"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores of single answers, higher is better, with the raw answers of the judge."""

    scores: NDArray[np.float64]  # [N], NaN for an answer whose verdict is excluded
    raw: list[Mapping[str, Any]]  # [N] what was answered, as JSON objects
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Verdicts on pairs, each pair in both orders of presentation."""

    orders: NDArray[np.float64]  # [M, 2] P(first is better) where it was shown first, second; NaN: excluded
    raw: list[Mapping[str, Any]]  # [M] what was answered, as JSON objects
    work: Work = field(default_factory=Work)

    @property
    def preference(self) -> NDArray[np.float64]:
        """P(first is better), the mean over both orders (Lee et al. 2023, section 3.1). Shape [M]; NaN: excluded."""
        mean: NDArray[np.float64] = self.orders.mean(axis=1)
        return mean


class Judge(ABC):
    """Says which of two answers is better.

    The constructor takes the module's ``Config`` and, by name, what the judge `needs`: with ``model`` a ``model`` and
    its ``tokenizer``, with ``verdicts`` the `rft.feedback.judges.cache.KeptVerdicts` that keep what was answered, with
    ``annotators``, for a simulated judge only, what `rft.feedback.base.Feedback` gets under that name, with ``entries``
    the store ``entries`` that the classmethod of this name finds and the ``strategy`` (device, type of the weights).
    Name in `located` the settings that change no answer, such as where a model is (an address holds the entries' keys
    instead) or how fast it is asked, and in `charged` those that only say what an answer costs: the address of a policy
    whose training a limit on money may end holds them, no other. Raise
    `version` when the code changes what the verdicts are: results under the old one are then not reused.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    located: ClassVar[frozenset[str]] = frozenset()
    charged: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    config: Any = None
    """What it was made with; None if it keeps none."""
    place: Place = Place()
    """Where it stands in a study, for what is told of it."""

    @classmethod
    def entries(cls, config: Any, store: Store) -> dict[str, Entry]:  # noqa: ARG003
        """The store entries that it is made from, by names that start with `JUDGE_ENTRY`.

        Raises:
            UserError: if the settings name none, or what is not there.
        """
        return {}

    @classmethod  # noqa: B027 - most need nothing
    def check_ready(cls, config: Any) -> None:
        """Asked before anything is computed for a judge that will be used: whether all is there that it needs.

        Raises:
            UserError: if not, as without a key in the environment.
        """

    @classmethod
    def scores_alone(cls, config: Any) -> bool:  # noqa: ARG003 - a subclass reads it there
        """Whether a judge of these settings scores an answer by itself; no order of presentation can then sway it."""
        return False

    @property
    def one_by_one(self) -> bool:
        """Whether this one does."""
        return self.scores_alone(self.config)

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """A score for each answer, if the judge is `one_by_one`."""
        raise UserError(
            f"judge: {type(self).__name__} compares answers as it is set and scores none by itself; set "
            "judge.form=pointwise, or choose a judge that scores, such as judge=few_shot"
        )

    @abstractmethod
    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        """Which answer of each pair is better, asked in both orders.

        Args:
            answers: N of them.
            pairs: rows of `answers`. Shape [M, 2].

        Raises:
            ValueError: if `pairs` has another shape or type.
            IndexError: if a pair names a row that there is not.
        """

    def asked_again(self, times: int = 1) -> Self:
        """This judge asked anew, as often as `times` says: itself, unless it keeps answers or draws them."""
        return self

    def pair_by_pair(self) -> Self:
        """This judge, where no pair is judged together with another: itself, unless it ranks several at once."""
        return self

    def reads_whole(self, answers: Sequence[Answer]) -> list[bool]:
        """Whether it reads each answer to its end: what is cut off can neither help nor harm."""
        return [True] * len(answers)

    def write(self, requests: Sequence[str], max_tokens: int, *, anew: bool = False) -> tuple[list[str], Work]:
        """The judge's own text in answer to each request, if it is a model that writes.

        Args:
            requests: what it is asked.
            max_tokens: of each text.
            anew: ask again what an earlier stage has kept, and keep the new text in its place: the old is of no use.
        """
        raise UserError(f"judge: {type(self).__name__} writes no text; choose one that does: judge=hf or judge=openai")


class PointwiseJudge(Judge):
    """Scores answers one by one; write ``score``."""

    @classmethod
    def scores_alone(cls, config: Any) -> bool:  # noqa: ARG003
        """It does."""
        return True

    @abstractmethod
    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """A score for each answer, which does not depend on the other answers but for rounding.

        Any string is a text: an empty one too, or one with braces, quotes, line ends or emoji. No answers, no scores.
        """

    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        """P(first is better) = σ(score of first − score of second), the same in both orders."""
        return compare_scores(self.score, answers, pairs)


@dataclass(frozen=True, slots=True)
class Scored:
    """Pairs of answers that were scored one by one."""

    scores: NDArray[np.float64]  # [N], NaN for an answer that is in no pair or is excluded
    preference: NDArray[np.float64]  # [M] P(first is better)
    raw: list[Mapping[str, Any]]  # [M] ``{"first": …, "second": …}``
    work: Work


def score_pairs(
    score: Callable[[Sequence[Answer]], Verdicts],
    answers: Sequence[Answer],
    pairs: NDArray[np.int64],
    temperature: float = 1.0,
) -> Scored:
    """P(first is better) = σ((score of first − score of second) / temperature); each answer is scored once.

    Raises:
        ValueError: if `pairs` has another shape or type than [M, 2] of integers.
        IndexError: if a pair names a row that there is not.
    """
    check_pairs(answers, pairs)
    asked = np.unique(pairs)
    verdicts = score([answers[i] for i in asked])
    scores, given = np.full(len(answers), np.nan), dict(zip(asked.tolist(), verdicts.raw, strict=True))
    scores[asked] = verdicts.scores
    difference = (scores[pairs[:, 0]] - scores[pairs[:, 1]]) / temperature
    raw: list[Mapping[str, Any]] = [{"first": given[a], "second": given[b]} for a, b in pairs.tolist()]
    return Scored(scores, np.exp(-np.logaddexp(0.0, -difference)), raw, verdicts.work)


def compare_scores(
    score: Callable[[Sequence[Answer]], Verdicts], answers: Sequence[Answer], pairs: NDArray[np.int64]
) -> Comparisons:
    """The same as `score_pairs` at temperature 1, which no order of presentation can sway."""
    found = score_pairs(score, answers, pairs)
    return Comparisons(np.repeat(found.preference[:, None], 2, axis=1), found.raw, found.work)
