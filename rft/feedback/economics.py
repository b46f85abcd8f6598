"""What labels cost and how good they are: people, simulated people, a judge and their mix, on the same pairs.

Dimensions: ``M`` pairs, ``D`` divisions of the raters into those who label and those who are the standard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.audit import share
from rft.feedback.ratings import HumanPairs, Ratings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LABELLERS = 3
DIVISIONS = 20
SHARES = (0.1, 0.25, 0.5)
"""Of the pairs of a mix that people label."""


@dataclass(frozen=True, slots=True)
class Panel:
    """People's comparisons of pairs, divided at random: who labels is not in the majority that it is compared with.

    Each value is the sign of a difference of ratings: 1 for the first, −1 for the second, 0 for alike.
    """

    labels: Floats  # [D, M, LABELLERS] single people
    majority: Floats  # [D, M] of all the others; 0: undecided

    def agreement(self, label: Floats) -> Floats:
        """Agreement of a label with the majority, over the divisions in which that is decided. Shape [M].

        Args:
            label: 1, −1 or 0, which counts half; NaN is excluded. Shape [M], or [D, M].

        Returns: a share for each pair; NaN where it is excluded or the majority is never decided.
        """
        hits = np.broadcast_to((1 + label * self.majority) / 2, self.majority.shape)
        decided = self.majority != 0
        count = decided.sum(axis=0)
        total = np.where(decided, hits, 0.0).sum(axis=0)
        agreed: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
        return agreed


def divide(ratings: Ratings, pairs: HumanPairs, seed: int, divisions: int = DIVISIONS) -> Panel:
    """Divide the raters of each pair `divisions` times at random.

    Comparison k is a random rating of the first against a random rating of the second, each used once: three label, the
    others vote. So every source is measured against the same majority, of about 17 in the rating data.

    Raises:
        ValueError: if a snippet of `pairs` has no rating beyond those of the labellers.
    """
    rng = np.random.default_rng(seed)
    labels = np.empty((divisions, len(pairs.pairs), LABELLERS))
    majority = np.empty((divisions, len(pairs.pairs)))
    for m, (a, b) in enumerate(pairs.pairs.tolist()):
        first, second = ratings.ratings[a], ratings.ratings[b]
        common = min(len(first), len(second))
        if common <= LABELLERS:
            raise ValueError(f"pair {m} has {common} comparisons: more than {LABELLERS} are wanted")
        for d in range(divisions):
            votes = np.sign(rng.permutation(first)[:common] - rng.permutation(second)[:common])
            labels[d, m] = votes[:LABELLERS]
            majority[d, m] = np.sign(votes[LABELLERS:].sum())
    return Panel(labels, majority)


@dataclass(frozen=True, slots=True)
class LabelCosts:
    """Of one label, in one currency."""

    person: float  # a comparison by one person
    simulated: float  # by all the simulated people who see a pair
    judge: float


def label_economics(panel: Panel, judge: Floats, simulated: Floats, costs: LabelCosts) -> list[dict[str, Any]]:
    """Agreement with the majority of people, and cost, of a label from each source.

    In a mix the judge labels every pair, and one person those of which it is least sure, |P − ½| smallest; a pair whose
    verdict could not be read is the first of them. Equally sure ones go by their place, which is random.

    Args:
        panel: the people.
        judge: P(first is better), NaN if excluded. Shape [M].
        simulated: the same by the simulated annotators. Shape [M].
        costs: prices.

    Returns: rows ``{"source", "share_human", "agreement", "cost_per_label"}``, by growing cost within people and mixes.
    """
    person, verdict = panel.labels[:, :, 0], np.sign(judge - 0.5)
    together = np.sign(panel.labels.sum(axis=2))
    sources: list[tuple[str, float | None, Floats, float]] = [
        ("one person", None, person, costs.person),
        ("three people", None, together, LABELLERS * costs.person),
        ("simulated", None, np.sign(simulated - 0.5), costs.simulated),
        ("ai", None, verdict, costs.judge),
    ]
    unsure_first = np.argsort(np.where(np.isnan(judge), -1.0, np.abs(judge - 0.5)), kind="stable")
    for part in SHARES:
        asked = unsure_first[: round(part * len(judge))]
        mixed = np.broadcast_to(verdict, person.shape).copy()
        mixed[:, asked] = person[:, asked]
        sources.append(("mixed", part, mixed, costs.judge + part * costs.person))
    return [
        {"source": name, "share_human": part, "agreement": share(panel.agreement(label)), "cost_per_label": cost}
        for name, part, label, cost in sources
    ]
