"""How far a judge agrees with people, on all cases and on those of which people's opinion is clear.

Random cases hold many that people themselves hardly tell apart; how often a judge is right depends on how many. So
each figure stands beside the same on clear cases only, and beside what one person reaches on these. A pair is as clear
as its mean ratings are apart, a single text as its mean is from neutral, 0; both in points of a scale of eight.

Dimensions: ``M`` pairs, ``N`` cases of an AUC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.agreement import human_agreements, one_person
from rft.feedback.audit import auc, picks, share
from rft.feedback.audit_cases import Answered, Case
from rft.feedback.ratings import HumanPairs, Ratings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLARITY = (0.5, 1.0)
"""Rating points that a case is clear by, and more. No setting, so that the audits of all judges can be compared.

Single ratings of a snippet have a standard deviation of 0.97, and 18.7 people rated one: the standard error of a mean
is 0.23 and of a difference of two 0.33. By half a point a mean is two standard errors from neutral and two means are
one and a half apart; by a whole point four and three, so that hardly any case stands on the wrong side by chance. Of
random pairs the one leaves four in five and the other two in three: of 400 enough for ± 5 points.
"""


@dataclass(frozen=True, slots=True)
class PairCases:
    """The pairs on which a judge is compared with people. Shapes [M]."""

    hits: Floats
    """As of `rft.feedback.audit.picks`."""
    people: Mapping[str, Floats]
    """As of `rft.feedback.agreement.human_agreements`."""
    clear_by: Floats
    """|difference of the mean ratings|, rating points."""


@dataclass(frozen=True, slots=True)
class RankedCases:
    """What an AUC is of: single texts for a judge that scores, else pairs. Shapes [N]."""

    judge: Floats
    """Score, or P(first is better); NaN where there is none."""
    means: Floats
    """People's mean rating, or the difference of two: its sign is the side that a case belongs to. Rating points."""
    person: Floats
    """The same by one person."""
    others: Floats
    """The same by all but that person."""


def agreement(pairs: PairCases, ranked: RankedCases, above: float = 0.0) -> dict[str, Any]:
    """The figures on the cases that are clear by more than `above` rating points.

    ``accuracy`` and ``auc`` are the judge's against the people's mean. ``ceiling`` is as of
    `rft.feedback.agreement.Ceiling` on the same pairs, null where no pair is decided. ``auc_person`` is the AUC of one
    person's ratings against the sign of the others' mean, on the same texts or pairs, but for those on which the others
    are undecided. ``pairs`` are those of which there is a verdict.
    """
    kept, clear = _beyond(pairs.clear_by, above), _beyond(np.abs(ranked.means), above)
    told = clear & (ranked.others != 0)
    return {
        "pairs": int((~np.isnan(pairs.hits[kept])).sum()),
        "accuracy": share(pairs.hits[kept]),
        "auc": auc(ranked.judge[clear], ranked.means[clear] > 0),
        "auc_person": auc(ranked.person[told], ranked.others[told] > 0),
        "ceiling": {name: _mean(values[kept]) for name, values in pairs.people.items()},
    }


def with_people(
    ratings: Ratings, rated: HumanPairs, cases: Sequence[Case], asked: Answered, seed: int
) -> dict[str, Any]:
    """The part ``human`` of an audit: `agreement` on all cases, and in ``clear`` for each of `CLARITY`.

    Args:
        ratings: of all snippets.
        rated: the pairs that the judge was asked about. Length M.
        cases: the same as they were asked. Length M.
        asked: what it answered.
        seed: draws the persons whom it is compared with.
    """
    means, preference = ratings.means, asked.preference
    pairs = PairCases(
        picks(preference, rated.first_better), human_agreements(ratings, rated, seed), np.abs(_apart(means, rated))
    )
    listed = np.unique(rated.pairs)
    person, others = np.full(len(ratings), np.nan), np.full(len(ratings), np.nan)
    person[listed], others[listed] = one_person(ratings, listed.tolist(), seed)
    if asked.scores is None:
        ranked = RankedCases(preference, *(_apart(values, rated) for values in (means, person, others)))
    else:
        # A text is one case however many pairs it is in.
        rows = {
            answer: row
            for case, pair in zip(cases, rated.pairs.tolist(), strict=True)
            for answer, row in zip(case.answers, pair, strict=True)
        }
        scores, index = np.array([asked.scores[answer] for answer in rows]), list(rows.values())
        ranked = RankedCases(scores, means[index], person[index], others[index])
    clear = [{"above": above} | agreement(pairs, ranked, above) for above in CLARITY]
    return agreement(pairs, ranked) | {"clear": clear}


def _apart(values: Floats, rated: HumanPairs) -> Floats:
    """Of the first minus that of the second. Shape [M]."""
    difference: Floats = values[rated.pairs[:, 0]] - values[rated.pairs[:, 1]]
    return difference


def _beyond(distance: Floats, above: float) -> NDArray[np.bool_]:
    """Whether it is more than `above`, a mean that is off by rounding alone being none that is more."""
    return np.asarray(distance > above + 1e-9)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
