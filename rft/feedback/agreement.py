"""How well people agree with one another: what a scorer of their taste can at best be expected to reach.

Dimensions: ``I`` snippets, ``K_i`` ratings of snippet i, ``M`` pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rft.feedback.ratings import HumanPairs, Ratings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Shares of agreement on some pairs, each in [0, 1]; a tie counts half."""

    majority: float
    """A comparison by one person (rating k of the first against rating k of the second), with the majority of
    all such comparisons of the pair, its own among them. The usual "human agreement" figure."""
    single: float
    """A comparison by one random person for each snippet, with the order of the others' means."""
    half_panel: float
    """The order of the means of a random half of the ratings, with that of the other half's means."""


def human_ceiling(ratings: Ratings, pairs: HumanPairs, seed: int) -> Ceiling:
    """The three figures on the same pairs that a scorer is tested on.

    A scorer that knew people's mean opinion would get 1 on the pairs; a single person gets `single`, a panel of
    about ten gets `half_panel`.

    Raises:
        ValueError: if a snippet of `pairs` has fewer than two ratings, or if no pair is decided.
    """
    return Ceiling(**{name: _mean(values) for name, values in human_agreements(ratings, pairs, seed).items()})


def human_agreements(ratings: Ratings, pairs: HumanPairs, seed: int) -> dict[str, NDArray[np.float64]]:
    """What `human_ceiling` takes the means of, by the names of `Ceiling`: in [0, 1], NaN if undecided. Shapes [M].

    Raises:
        ValueError: if a snippet of `pairs` has fewer than two ratings.
    """
    rng = np.random.default_rng(seed)
    rows = [(ratings.ratings[a], ratings.ratings[b]) for a, b in pairs.pairs]
    if any(min(len(a), len(b)) < 2 for a, b in rows):
        raise ValueError("a snippet has one rating: agreement needs two of every snippet at least")
    found = {
        "majority": [_majority(a, b) for a, b in rows],
        "single": [_split(a, b, (1, 1), rng) for a, b in rows],
        "half_panel": [_split(a, b, (len(a) // 2, len(b) // 2), rng) for a, b in rows],
    }
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def one_person(ratings: Ratings, rows: Sequence[int], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each snippet in `rows` one random rating, and the mean of the others. Shapes [N], rating points.

    Raises:
        ValueError: if a snippet of `rows` has fewer than two ratings.
    """
    rng = np.random.default_rng(seed)
    given = [ratings.ratings[i] for i in rows]
    if any(len(row) < 2 for row in given):
        raise ValueError("a snippet has one rating: agreement needs two of every snippet at least")
    own = np.array([row[rng.integers(len(row))] for row in given], dtype=np.float64)
    rest = [(row.sum() - one) / (len(row) - 1) for row, one in zip(given, own, strict=True)]
    return own, np.array(rest, dtype=np.float64)


def krippendorff_alpha(ratings: Ratings) -> float:
    """Krippendorff's α for interval data, 1 for perfect agreement and 0 for chance (Krippendorff 2011, section E).

    α does not use who gave which rating, only which ratings fell to the same snippet.
    """
    import krippendorff

    table = np.full((int(ratings.counts.max()), len(ratings)), np.nan)
    for i, row in enumerate(ratings.ratings):
        table[: len(row), i] = row
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="interval"))


def _majority(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    common = min(len(first), len(second))
    votes = np.sign(first[:common] - second[:common])
    majority = np.sign(votes.sum())
    return None if majority == 0 else float(np.mean((1 + votes * majority) / 2))


def _split(
    first: NDArray[np.float64], second: NDArray[np.float64], sizes: tuple[int, int], rng: np.random.Generator
) -> float | None:
    """Agreement of the first `sizes` of the shuffled ratings with the rest; None where the rest is undecided."""
    part, rest = [], []
    for row, size in zip((first, second), sizes, strict=True):
        shuffled = rng.permutation(row)
        part.append(shuffled[:size].mean())
        rest.append(shuffled[size:].mean())
    truth = np.sign(rest[0] - rest[1])
    return None if truth == 0 else float((1 + np.sign(part[0] - part[1]) * truth) / 2)


def _mean(values: NDArray[np.float64]) -> float:
    decided = values[~np.isnan(values)]
    if len(decided) == 0:
        raise ValueError(f"none of the {len(values)} pairs is decided: ask for more of them")
    return float(np.mean(decided))
