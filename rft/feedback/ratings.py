"""Real human ratings of film-review snippets (Hutto & Gilbert 2014), and pairs of them for testing a scorer.

10,605 snippets of Rotten Tomatoes, each rated −4 (extremely negative) to 4 (extremely positive) by 15 to 29 trained
people. Dimensions: ``I`` snippets, ``K_i`` ratings of snippet i, ``M`` pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rft.errors import UserError
from rft.store import Store
from rft.store.assets import fetch

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASSET = "human-ratings"
TEXTS, RATINGS = "movieReviewSnippets_GroundTruth.txt", "movieReviewSnippets_anonDataRatings.txt"
LOWEST, HIGHEST = -4, 4


@dataclass(frozen=True, slots=True)
class Ratings:
    """Snippets with every single rating."""

    texts: Sequence[str]  # [I]
    ratings: Sequence[NDArray[np.float64]]  # [I] of [K_i], whole numbers in [−4, 4]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.ratings):
            raise ValueError(f"{len(self.texts)} texts and {len(self.ratings)} rows of ratings: wanted as many")

    def __len__(self) -> int:
        return len(self.ratings)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean rating of each snippet. Shape [I]."""
        return np.array([row.mean() for row in self.ratings])

    @property
    def counts(self) -> NDArray[np.int64]:
        """K_i. Shape [I]."""
        return np.array([len(row) for row in self.ratings], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class HumanPairs:
    """Pairs of snippets of which people prefer one. Rows of `Ratings`; shapes [M, 2] and [M]."""

    pairs: NDArray[np.int64]
    first_better: NDArray[np.bool_]

    def accuracy(self, scores: NDArray[np.float64]) -> float:
        """Share of pairs that `scores` (shape [I], one a snippet) order as people do; equal scores count half."""
        return float(np.mean(self.hits(scores)))

    def hits(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """1, 0 or (equal scores) ½ for each pair. Shape [M]."""
        difference = scores[self.pairs[:, 0]] - scores[self.pairs[:, 1]]
        right = np.where(self.first_better, difference > 0, difference < 0)
        return np.where(difference == 0, 0.5, right.astype(np.float64))


def load_ratings(store: Store) -> Ratings:
    """The asset's ratings, fetched if need be."""
    return read_ratings(fetch(store, ASSET).path)


def read_ratings(folder: Path) -> Ratings:
    """The two tab-separated files in `folder`, joined by ID: (ID, mean, text) and (ID, mean, sd, [ratings]).

    Raises:
        UserError: naming file and line, if a line is not of that form or has no partner in the other file.
    """
    texts: dict[str, str] = {}
    for where, (identity, _, text) in _rows(folder / TEXTS, 3):
        if texts.setdefault(identity, text) is not text:
            raise UserError(f"{where}: the ID {identity} is there twice; fetch the asset again")
    rows: dict[str, NDArray[np.float64]] = {}
    for where, (identity, _, _, listed) in _rows(folder / RATINGS, 4):
        values = _values(listed)
        if identity not in texts or identity in rows or values is None:
            raise UserError(
                f"{where}: no text with this ID, an ID that is there twice, or no list of whole numbers from "
                f"{LOWEST} to {HIGHEST}; fetch the asset again"
            )
        rows[identity] = values
    if missing := texts.keys() - rows.keys():
        raise UserError(f"{folder / RATINGS}: the ID {min(missing)} has no ratings; fetch the asset again")
    return Ratings([texts[identity] for identity in rows], list(rows.values()))


def _values(listed: str) -> NDArray[np.float64] | None:
    """The ratings that `listed` holds; None if they are not as they should be."""
    try:
        values = json.loads(listed)
    except ValueError:
        return None
    known = range(LOWEST, HIGHEST + 1)
    if not isinstance(values, list) or not values or any(value not in known for value in values):
        return None
    return np.array(values, dtype=np.float64)


def human_pairs(ratings: Ratings, n: int, seed: int, min_gap: float = 0.0) -> HumanPairs:
    """`n` random pairs of snippets whose mean ratings differ by more than `min_gap` (rating points).

    With the default only equal means are left out, so that the accuracy on the pairs stands beside
    `agreement.human_ceiling` of the same pairs; a larger gap keeps the clearer preferences.

    Raises:
        ValueError: if fewer than `n` pairs are found in 100 n draws.
    """
    rng = np.random.default_rng(seed)
    means = ratings.means
    drawn = rng.integers(len(ratings), size=(100 * n, 2))
    gap = np.abs(means[drawn[:, 0]] - means[drawn[:, 1]])
    pairs = drawn[gap > min_gap][:n]
    if len(pairs) < n:
        raise ValueError(f"{n} pairs with a gap above {min_gap} are wanted, {len(pairs)} found; ask for fewer")
    return HumanPairs(pairs, means[pairs[:, 0]] > means[pairs[:, 1]])


def _rows(path: Path, width: int) -> list[tuple[str, list[str]]]:
    """(file:line, fields) of a tab-separated file with `width` fields a line."""
    rows = []
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a text may hold other line ends
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) != width:
            raise UserError(f"{path}:{number}: {len(fields)} fields, {width} wanted; fetch the asset again")
        rows.append((f"{path}:{number}", fields))
    return rows
