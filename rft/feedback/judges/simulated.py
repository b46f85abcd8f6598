"""A judge whose quality is known, since it is set: the hidden gold reward, worsened in stated ways.

For studies of what a judge's quality does to what learns from it. Dimensions: ``N`` answers, ``M`` pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.config.ranges import number
from rft.errors import UserError
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.base import Answer, Work, check_pairs
from rft.feedback.judges.base import Comparisons, Judge, PointwiseJudge, Verdicts
from rft.tasks.base import GoldReward

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICKS = {1.0: "first", 0.0: "second", 0.5: "neither"}


class FormEnum(str, Enum):
    """What the judge is shown."""

    pairwise = "pairwise"
    pointwise = "pointwise"


@dataclass
class Config:
    """Settings of `SimulatedJudge`."""

    form: FormEnum = FormEnum.pairwise
    """pairwise: a verdict on two answers, in both orders. pointwise: a score for each answer by itself."""
    accuracy: float = number(0.8, at_least=0.5, at_most=1)
    """Probability that the verdict on a pair is not turned round; with no noise and no bias, that it agrees with the
    gold order. 0.5 is a coin. pairwise only. (One person agrees with the majority on about 0.84 of the pairs of the
    rating data, `rft annotators`.)"""
    position_bias: float = number(0.0, at_least=0, at_most=1)
    """Probability that, in one order of presentation, the answer shown first is picked whatever it says. pairwise
    only."""
    length_bias: float = number(0.0, at_least=-20, at_most=20)
    """Nats added to a text's gold log-odds for each e-fold of the response's length in characters; below 0 the judge
    likes short responses. At 1, twice the length is worth 0.69 nats."""
    noise: float = number(0.0, at_least=0)
    """Standard deviation, in nats, of what is added to a text's gold log-odds: errors then fall on close pairs."""
    seed: int = number(0, at_least=0)
    """Of all draws."""

    def conflict(self) -> str | None:
        """Why it is refused: pointwise with what is of pairs."""
        if self.form is FormEnum.pairwise or (self.accuracy == 1 and self.position_bias == 0):
            return None
        return (
            f"form=pointwise: accuracy={self.accuracy} and position_bias={self.position_bias} are of verdicts on "
            "pairs; set them to 1 and 0 and use judge.noise, or set judge.form=pairwise"
        )


class SimulatedJudge(PointwiseJudge):
    """What it thinks of text x, in nats, and what it says of a pair, with Φ the normal distribution:

        s(x) = gold logit(x) + length_bias · ln max(1, characters of the response) + noise · z(x),    z ~ N(0, 1)
        right(a, b) = [s(a) > s(b)], ½ if equal; turned round with probability 1 − accuracy
        shown in the order (a, b): a with probability position_bias, else right(a, b)

    Pointwise the score is s(x), and a pair's preference σ(s(a) − s(b)), as of every judge that scores.

    z is drawn for a text, the turn once a pair, the same in both orders, and the bias of position anew for each order;
    each from a hash of the seed and the text or texts, whatever else is asked. So for pairs without equal s:

        P(the two orders disagree) = P(same position picked) = position_bias, always the first position
        P(agrees with the gold | gold difference d, lengths alike) = ½ + (2 accuracy − 1) (Φ(|d| / (√2 noise)) − ½),
        of the pairs on which the orders agree; without noise that is `accuracy`

    The turn's draw does not depend on `accuracy`: a pair that a good judge gets wrong a worse one gets wrong too, so
    that judges of different accuracy differ in accuracy alone.

    Raises:
        UserError: if it is pointwise with an accuracy below 1 or a bias of position, which are of pairs.
    """

    needs = frozenset({"annotators"})

    def __init__(self, config: Config, gold: GoldReward, annotators: AnnotatorModel) -> None:
        if told := config.conflict():
            raise UserError(f"judge.{told}")
        self.config, self.gold = config, gold

    @classmethod
    def scores_alone(cls, config: Any) -> bool:
        """Whether its form is pointwise."""
        return bool(config.form is FormEnum.pointwise)

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """s(x) of each answer, if pointwise. Raw answers: ``{"score": …}``."""
        if not self.one_by_one:
            return Judge.score(self, answers)
        scores = self._opinions(answers)
        return Verdicts(scores, [{"score": float(s)} for s in scores], Work(len(answers)))

    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        """See the base class. Raw answers, pairwise: ``{"picks": [shown as it is, turned round]}``."""
        if self.one_by_one:
            return super().compare(answers, pairs)
        check_pairs(answers, pairs)
        scores = self._opinions(answers)
        orders = np.empty((len(pairs), 2))
        for m, (a, b) in enumerate(pairs.tolist()):
            texts = answers[a].text, answers[b].text
            right = float(np.sign(scores[a] - scores[b]) + 1) / 2
            if self._uniform("turn", *sorted(texts)) >= self.config.accuracy:
                right = 1 - right
            orders[m] = self._shown(right, *texts), 1 - self._shown(1 - right, *reversed(texts))
        raw: list[Mapping[str, Any]] = [{"picks": [PICKS[p] for p in row]} for row in orders.tolist()]
        return Comparisons(orders, raw, Work(2 * len(pairs)))

    def _opinions(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """s(x) of each. Shape [N]."""
        texts = [answer.text for answer in answers]
        scores = np.array(self.gold.logit(texts), dtype=np.float64) if texts else np.empty(0)
        if self.config.length_bias:
            lengths = np.array([max(1, len(answer.response)) for answer in answers])
            scores += self.config.length_bias * np.log(lengths)
        if self.config.noise:
            normal = NormalDist()
            scores += self.config.noise * np.array([normal.inv_cdf(self._uniform("noise", text)) for text in texts])
        return scores

    def _shown(self, right: float, first: str, second: str) -> float:
        """Whether the one shown first is picked."""
        return 1.0 if self._uniform("position", first, second) < self.config.position_bias else right

    def _uniform(self, what: str, *texts: str) -> float:
        """A number in (0, 1) by the seed, what it is for and the texts."""
        whole = "\0".join((str(self.config.seed), what, *texts)).encode("utf-8", errors="surrogatepass")
        return ((int.from_bytes(hashlib.sha256(whole).digest()[:8], "big") >> 12) + 0.5) / 2**52
