"""AI feedback: a judge's verdicts in place of people's comparisons (Lee et al. 2023, arXiv 2309.00267)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rft.config.ranges import number
from rft.errors import UserError
from rft.feedback.base import Answer, Feedback, Labels, check_pairs
from rft.feedback.judges.base import Judge, score_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Config:
    """Settings of `AiFeedback`."""

    temperature: float = number(1.0, above=0)
    """Difference of scores (nats) that makes a preference of σ(1) = 0.73, above 0; small is decided."""


class AiFeedback(Feedback):
    """The judge's preferences, their log-odds divided by the temperature.

    A judge that sees one answer at a time is asked for scores, preference = σ((score of first − score of second) /
    temperature): Bradley–Terry, and no order of presentation can sway it. Another is asked about each pair in both
    orders, and the mean counts. A verdict that could not be read excludes its pairs.
    """

    needs = frozenset({"judge"})
    symmetric = True

    def __init__(self, config: Config, judge: Judge) -> None:
        if not config.temperature > 0:
            raise UserError(f"feedback.temperature is {config.temperature}: it must be above 0")
        self.config, self.judge = config, judge

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        """See the base class. Raw answers: the judge's own, of single answers ``{"first": …, "second": …}``."""
        check_pairs(answers, pairs)
        return self._by_score(answers, pairs) if self.judge.one_by_one else self._by_pair(answers, pairs)

    def _by_score(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        found = score_pairs(self.judge.score, answers, pairs, self.config.temperature)
        return Labels(found.scores, found.preference, [json.dumps(one) for one in found.raw], work=found.work)

    def _by_pair(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        found = self.judge.compare(answers, pairs)
        preference = found.preference
        if self.config.temperature != 1:
            with np.errstate(divide="ignore"):
                odds = (np.log(preference) - np.log1p(-preference)) / self.config.temperature
            preference = np.exp(-np.logaddexp(0.0, -odds))
        raw = [json.dumps(answer) for answer in found.raw]
        return Labels(np.full(len(answers), np.nan), preference, raw, orders=found.orders, work=found.work)
