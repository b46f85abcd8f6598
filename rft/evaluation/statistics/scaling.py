"""Gao et al.'s curves of gold reward over distance from the start, with intervals of their coefficients.

Dimension: `M` points, each a policy at some distance from the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from rft.evaluation.statistics.intervals import PROMPTS_ONLY, SEEDS_ONLY, FloatArray, Interval

LEAST_DISTANCES = 4
"""Two coefficients need more than two distances before a fit says anything."""
LEAST_SPREAD = 1.5
"""The largest distance over the smallest, at least. Points at nearly one distance show the height of the curve there,
not its bend: α and β then trade against each other, whatever the noise says."""
SINGULAR = 1e-10
"""Distances this close to one another (relative determinant) tell the two coefficients apart by rounding only."""

LAWS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "rl": lambda d: d * np.log(d),
    "best_of_n": lambda d: d * d,
}
"""What β is taken of: gold(d) − gold(0) is d·(α − β·log d) for training, d·(α − β·d) for best of n."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted law; the bounds of α and β are NaN if no seed was repeated."""

    law: str
    alpha: Interval
    beta: Interval
    points: int
    furthest: float  # the largest d among the points

    @property
    def peak(self) -> float | None:
        """The distance d = √KL beyond which the gold reward falls; None if it never does."""
        alpha, beta = self.alpha.mean, self.beta.mean
        if beta <= 0.0:
            return None
        at = math.exp(min(alpha / beta - 1.0, 700.0)) if self.law == "rl" else alpha / (2.0 * beta)
        return at if at > 0.0 else None

    @property
    def falls(self) -> bool:
        """Whether the points show the gold reward falling: β's interval lies above 0 and the peak within the points."""
        return self.beta.low > 0.0 and self.peak is not None and self.peak < self.furthest


def fit_curve(law: str, kl: FloatArray, gain: FloatArray, seeds: Sequence[int], level: float = 0.95) -> Curve | None:
    """Least squares of `gain` [M], gold minus the start's, over d = √KL of `kl` [M] in nats; KL ≤ 0 drops out.

    A point's seed is the unit of replication, since the checkpoints of one run depend on each other: the interval is
    that of the jackknife that leaves out one seed at a time, with Student's t of S − 1 degrees of freedom. (A bootstrap
    that draws three seeds with replacement covers too rarely; see the package's docstring.)

    Returns None with fewer than 4 different d > 0, or if these are too close together to tell α from β: the largest
    less than 1.5 times the smallest.

    Sources: Gao et al. 2022 (arXiv 2210.10760), section 3; Tukey 1958 for the jackknife (Ann. Math. Stat. 29:614).
    """
    kept = kl > 0.0
    distance, gained, owner = np.sqrt(kl[kept]), gain[kept], np.asarray(seeds)[kept]
    if len(np.unique(distance)) < LEAST_DISTANCES or distance.max() < LEAST_SPREAD * distance.min():
        return None
    furthest = float(distance.max())
    whole = _solve(law, distance, gained)
    if whole is None:
        return None
    names = np.unique(owner)
    without = [_solve(law, distance[owner != seed], gained[owner != seed]) for seed in names]
    fits = [fit for fit in without if fit is not None]
    if len(names) < 2 or len(fits) < len(names):
        alpha, beta = (Interval(value, math.nan, math.nan, PROMPTS_ONLY) for value in whole)
        return Curve(law, alpha, beta, len(distance), furthest)
    count, t = len(names), float(stdtrit(len(names) - 1, 0.5 + level / 2.0))
    spread = np.sqrt(np.var(np.array(fits), axis=0) * (count - 1))
    alpha, beta = (
        Interval(value, value - t * float(error), value + t * float(error), SEEDS_ONLY)
        for value, error in zip(whole, spread, strict=True)
    )
    return Curve(law, alpha, beta, len(distance), furthest)


def _solve(law: str, distance: FloatArray, gained: FloatArray) -> tuple[float, float] | None:
    """α and β by the normal equations of two unknowns; None if they are singular."""
    first, second = distance, -LAWS[law](distance)
    aa, ab, bb = (float(np.sum(x * y)) for x, y in ((first, first), (first, second), (second, second)))
    ay, by = float(np.sum(first * gained)), float(np.sum(second * gained))
    determinant = aa * bb - ab * ab
    if determinant <= SINGULAR * aa * bb:
        return None
    return (bb * ay - ab * by) / determinant, (aa * by - ab * ay) / determinant
