"""Simulated annotators: the gold reward seen through the bias and noise of real raters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rft.config.ranges import number
from rft.errors import UserError
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.base import Answer, Feedback, Labels, check_pairs
from rft.tasks.base import GoldReward

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Config:
    """Settings of `Simulated`."""

    raters: int = number(20, at_least=1)
    """People in the pool, each with one bias for good; at least `raters_per_pair` (about as many rated a snippet)."""
    raters_per_pair: int = number(3, at_least=1)
    """Different people who compare a pair, at least 1."""
    bias_scale: float = number(1.0, at_least=0)
    """Multiplies the fitted bias, at least 0; 1 is people's own."""
    noise_scale: float = number(1.0, at_least=0)
    """Multiplies the fitted noise, at least 0; 1 is people's own."""
    seed: int = number(0, at_least=0)
    """Draws the people, who compares what, and the noise; at least 0."""


class Simulated(Feedback):
    """Each of a pair's raters rates both texts from −4 to 4 by `AnnotatorModel` and prefers the higher rating.

    preference = (raters who prefer the first + ½ raters who rate both alike) / raters. A text's score is the mean of
    all ratings it got. A pair's draws depend on the seed and its two texts only, not on what else is labelled.
    """

    needs = frozenset({"annotators"})

    def __init__(self, config: Config, gold: GoldReward, annotators: AnnotatorModel) -> None:
        if not 1 <= config.raters_per_pair <= config.raters:
            raise UserError(
                f"feedback.raters_per_pair is {config.raters_per_pair}: it must be from 1 to feedback.raters "
                f"({config.raters})"
            )
        for name, value in (
            ("bias_scale", config.bias_scale),
            ("noise_scale", config.noise_scale),
            ("seed", config.seed),
        ):
            if not value >= 0:
                raise UserError(f"feedback.{name} is {value}: it must be at least 0")
        self.config, self.gold, self.annotators = config, gold, annotators
        self._biases = config.bias_scale * np.random.default_rng(config.seed).standard_normal(config.raters)

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        """See the base class. Raw answers: ``{"raters": [...], "first": [ratings], "second": [ratings]}``."""
        check_pairs(answers, pairs)
        texts = [answer.text for answer in answers]
        logits = self.gold.logit(texts)
        total, count = np.zeros(len(texts)), np.zeros(len(texts))
        preference = np.empty(len(pairs))
        raw: list[str] = []
        for m, pair in enumerate(pairs):
            raters, ratings = self._rate([texts[i] for i in pair], logits[pair])
            preference[m] = float(np.mean((1 + np.sign(ratings[0] - ratings[1])) / 2))
            np.add.at(total, pair, ratings.sum(axis=1))
            np.add.at(count, pair, ratings.shape[1])
            first, second = ratings.astype(int).tolist()
            raw.append(json.dumps({"raters": raters.tolist(), "first": first, "second": second}))
        scores = np.divide(total, count, out=np.full(len(texts), np.nan), where=count > 0)
        return Labels(scores, preference, raw, human_labels=len(pairs) * self.config.raters_per_pair)

    def _rate(self, texts: Sequence[str], logits: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The raters [R] of a pair and their ratings [2, R]."""
        content = hashlib.sha256("\0".join(texts).encode()).digest()
        rng = np.random.default_rng([self.config.seed, int.from_bytes(content[:8], "big")])
        raters = rng.choice(self.config.raters, size=self.config.raters_per_pair, replace=False)
        noise = self.config.noise_scale * rng.standard_normal((2, len(raters)))
        return raters, self.annotators.rate(logits[:, None], self._biases[raters], noise)
