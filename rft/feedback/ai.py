"""AI feedback: a judge's scores in place of people's comparisons (Lee et al. 2023, arXiv 2309.00267)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rft.errors import UserError
from rft.feedback.base import Feedback, Labels, check_pairs
from rft.feedback.judges.base import Judge

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Config:
    """Settings of `AiFeedback`."""

    temperature: float = 1.0
    """Difference of scores (nats) that makes a preference of σ(1) = 0.73, above 0; small is decided."""


class AiFeedback(Feedback):
    """preference = σ((score of first − score of second) / temperature): Bradley–Terry on the judge's scores.

    The judge sees one text at a time, so no order of presentation can sway it.
    """

    needs = frozenset({"judge"})
    symmetric = True

    def __init__(self, config: Config, judge: Judge) -> None:
        if not config.temperature > 0:
            raise UserError(f"feedback.temperature is {config.temperature}: it must be above 0")
        self.config, self.judge = config, judge

    def label(self, texts: Sequence[str], pairs: NDArray[np.int64]) -> Labels:
        """See the base class. Raw answers: the judge's own for both texts, ``{"first": …, "second": …}``."""
        check_pairs(texts, pairs)
        asked = np.unique(pairs)
        verdicts = self.judge.score([texts[i] for i in asked])
        scores = np.full(len(texts), np.nan)
        scores[asked] = verdicts.scores
        answers = dict(zip(asked.tolist(), verdicts.raw, strict=True))
        difference = (scores[pairs[:, 0]] - scores[pairs[:, 1]]) / self.config.temperature
        raw = [json.dumps({"first": answers[a], "second": answers[b]}) for a, b in pairs.tolist()]
        return Labels(scores, np.exp(-np.logaddexp(0.0, -difference)), raw, judge_tokens=verdicts.tokens)
