"""AI labels everywhere, and people's where the judge is least sure. Dimensions: ``N`` answers, ``M`` pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rft.config.ranges import number
from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.base import Answer, Feedback, Labels, check_pairs
from rft.feedback.judges.base import Judge
from rft.feedback.simulated import Config as PeopleConfig
from rft.feedback.simulated import Simulated
from rft.tasks.base import GoldReward

if TYPE_CHECKING:
    from numpy.typing import NDArray

AI, PEOPLE = "ai", "people"


@dataclass
class Config:
    """Settings of `Mixed`."""

    human_share: float = number(0.25, at_least=0, at_most=1)
    """Share of the pairs that people label in the judge's place; 0 is `feedback=ai`, 1 the people of `people`."""
    ai: AiConfig = field(default_factory=AiConfig)
    """How the judge's verdicts become preferences, as in `feedback=ai`."""
    people: PeopleConfig = field(default_factory=PeopleConfig)
    """Who the people are, as in `feedback=simulated`."""
    seed: int = number(0, at_least=0)
    """Decides which of equally unsure pairs go to people; added to `people.seed`."""

    def conflict(self) -> str | None:
        """More people for a pair than there are."""
        if self.people.raters_per_pair <= self.people.raters:
            return None
        return (
            f"people.raters_per_pair={self.people.raters_per_pair}: must be at most feedback.people.raters "
            f"({self.people.raters})"
        )


class Mixed(Feedback):
    """The judge labels all M pairs; the round(human_share · M) of which it is least sure are labelled by people.

    Least sure: no verdict (one that could not be read) first, then the smallest |p − ½|, p the judge's preference;
    of equal ones the order is by a hash of the seed and the two texts. This is uncertainty sampling (Lewis & Gale 1994,
    "A sequential algorithm for training text classifiers"), on all pairs at once. A pair that goes to people has their
    preference alone. So a pair's label depends on which others are labelled with it, by the threshold. Verdicts that
    could not be read leave fewer people for pairs of which the judge is unsure: ``stood_in`` counts them.

    People are asked in the order of presentation, so 1 − p for a pair the other way round is not promised.
    """

    needs = frozenset({"judge", "annotators"})
    by_comparison = True

    def __init__(self, config: Config, judge: Judge, gold: GoldReward, annotators: AnnotatorModel) -> None:
        self.config = config
        self.ai = AiFeedback(config.ai, judge)
        self.people = Simulated(replace(config.people, seed=config.people.seed + config.seed), gold, annotators)

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        """See the base class. Raw answers: ``{"labeller": "ai" | "people", "ai": …}``, with ``"people": …`` for the
        second, each as the source by itself writes it.

        Scores and orders are the judge's, of all pairs; its work is for all of them too.
        """
        check_pairs(answers, pairs)
        machine = self.ai.label(answers, pairs)
        chosen = self._least_sure(answers, pairs, machine.preference)
        people = self.people.label(answers, pairs[chosen])
        preference, source = machine.preference.copy(), [AI] * len(pairs)
        raw = [{"labeller": AI, "ai": json.loads(said)} for said in machine.raw]
        preference[chosen] = people.preference
        for m, said in zip(chosen.tolist(), people.raw, strict=True):
            source[m] = PEOPLE
            raw[m] = {"labeller": PEOPLE, "people": json.loads(said), "ai": raw[m]["ai"]}
        return replace(
            machine,
            preference=preference,
            raw=[json.dumps(said) for said in raw],
            human_labels=people.human_labels,
            source=source,
            stood_in=int(np.isnan(machine.preference[chosen]).sum()),
        )

    def _least_sure(
        self, answers: Sequence[Answer], pairs: NDArray[np.int64], preference: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Which of the pairs go to people, in the order in which they are given."""
        sureness = np.where(np.isnan(preference), -1.0, np.abs(preference - 0.5))
        tie = [self._hash(answers[a].text, answers[b].text) for a, b in pairs.tolist()]
        # Rounded, since log-odds and back leaves p and 1 − p a bit apart: else the order of presentation would decide.
        order = sorted(range(len(pairs)), key=lambda m: (round(float(sureness[m]), 9), tie[m], m))
        return np.array(sorted(order[: round(self.config.human_share * len(pairs))]), dtype=np.int64)

    def _hash(self, first: str, second: str) -> bytes:
        whole = "\0".join((str(self.config.seed), *sorted((first, second))))
        return hashlib.sha256(whole.encode("utf-8", errors="surrogatepass")).digest()
