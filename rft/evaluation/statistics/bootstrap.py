"""The resampling of seeds and prompts that the package's docstring describes, for all that is linear in the scores.

Dimensions: `S` seeds of an arm, `N` prompts, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtr, stdtrit

from rft.evaluation.statistics.intervals import PROMPTS_ONLY, SEEDS_AND_PROMPTS, FloatArray, Interval, Resampling

GROUPS = 200
"""Points that stand for the R prompt draws where tail probabilities are averaged over them."""
FREEDOM_STEP = 32
"""Estimates marked `rounded` take degrees of freedom rounded down to a 32nd: the draws of Student's t cost
more than all else, and few different ones are needed then. From two on, a 32nd widens an interval by under 2 %."""


@dataclass(frozen=True, slots=True)
class Table:
    """What an estimate needs of one arm's scores [S, N]."""

    prompt_means: FloatArray  # [N]
    seeds: int
    seed_variance: float  # s²/S: variance of the arm's mean over seeds
    noise: float  # MSE/S: variance of one prompt's mean from noise alone

    def times(self, factor: float) -> Table:
        """The table of the scores times `factor`."""
        square = factor * factor
        return Table(factor * self.prompt_means, self.seeds, square * self.seed_variance, square * self.noise)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with all that its uncertainty takes: draws from the prompts, Student's t from the seeds."""

    mean: float
    centre: float
    prompt_draws: FloatArray  # [R], deviations from the centre
    tables: tuple[Table, ...]
    repeated: bool
    settings: Resampling
    rounded: bool = False

    @property
    def seed_variance(self) -> float:
        """Variance of the number from the seeds."""
        return sum(table.seed_variance for table in self.tables)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the seeds' variance (Welch–Satterthwaite)."""
        found = _welch(self.tables)
        return math.floor(found * FREEDOM_STEP) / FREEDOM_STEP if self.rounded else found

    def draws(self) -> FloatArray:
        """Resampled values [R]; row r uses the same prompts in every estimate."""
        variance = self.seed_variance
        if variance == 0.0:
            return self.centre + self.prompt_draws
        return self.centre + self.prompt_draws + math.sqrt(variance) * _student(self.freedom, self.settings)

    def interval(self) -> Interval:
        """The percentile interval of the draws."""
        return self._interval(self.draws())

    def _interval(self, draws: FloatArray) -> Interval:
        tail = (1.0 - self.settings.level) / 2.0
        low, high = np.quantile(draws, [tail, 1.0 - tail])
        return Interval(self.mean, float(low), float(high), SEEDS_AND_PROMPTS if self.repeated else PROMPTS_ONLY)

    def tested(self) -> tuple[Interval, float | None]:
        """The interval, and the two-sided p-value of 0, which is below 1 − level just where the interval excludes 0.

        The p-value is the level at which the interval would end at 0. The draws tell it to 2/R, too coarse for many
        comparisons, so the chance that Student's t falls beyond 0 is averaged over the prompt draws; where the two
        are on different sides of 1 − level the draws decide, so that p-value and interval never contradict each other.
        Without seeds that differ there is no t: then the draws alone tell, and 2/(R + 1) is the least they can.
        None if no seed was repeated.
        """
        draws = self.draws()
        interval = self._interval(draws)
        if not self.repeated:
            return interval, None
        rate, p = self.settings.error_rate, self._averaged_p()
        if p is None or (p < rate) != interval.excludes_zero:
            p = max(_counted_p(np.sort(draws)), 2.0 / (len(draws) + 1))
            p = min(p, math.nextafter(rate, 0.0)) if interval.excludes_zero else max(p, rate)
        return interval, p

    def _averaged_p(self) -> float | None:
        variance = self.seed_variance
        if variance == 0.0:
            return None
        edges = np.linspace(0, len(self.prompt_draws), min(GROUPS, len(self.prompt_draws)) + 1).astype(np.int64)
        means = np.add.reduceat(np.sort(self.prompt_draws), edges[:-1]) / np.diff(edges)
        distance = (self.centre + means) / math.sqrt(variance)
        freedom = self.freedom
        below, above = float(stdtr(freedom, -distance).mean()), float(stdtr(freedom, distance).mean())
        return min(1.0, 2.0 * min(below, above))


class Bootstrap:
    """Intervals of means and contrasts of several arms over the same prompts.

    `arms` maps an arm to its scores, shape [S, N] (S may differ between arms, N may not). A result depends
    on the scores of the arms it is about and on the settings, never on which other arms are present.

    Raises ValueError on empty, non-finite or differently shaped scores, and on `paired_seeds` with arms of
    different seed counts (row s must be the same seed in every arm).
    """

    def __init__(
        self,
        arms: Mapping[str, FloatArray],
        settings: Resampling | None = None,
        *,
        paired_seeds: bool = False,
    ) -> None:
        self.settings = settings or Resampling()
        self.scores = {arm: np.asarray(scores, dtype=np.float64) for arm, scores in arms.items()}
        _check(self.scores, paired_seeds)
        self.paired = paired_seeds
        self._weights = _prompt_weights(next(iter(self.scores.values())).shape[1], self.settings)
        self._tables: dict[str, Table] = {}
        self._prompt_draws: dict[str, FloatArray] = {}

    def mean(self, arm: str) -> Interval:
        """The arm's mean score with its interval."""
        return self.contrast({arm: 1.0})

    def difference(self, arm: str, control: str) -> Interval:
        """Mean score of `arm` minus that of `control`, with its interval."""
        return self.contrast({arm: 1.0, control: -1.0})

    def contrast(self, coefficients: Mapping[str, float]) -> Interval:
        """Σ_a c_a · mean score of arm a, with its interval."""
        return self.estimate(coefficients).interval()

    def estimate(self, coefficients: Mapping[str, float]) -> Estimate:
        """Σ_a c_a · mean score of arm a; each arm's prompt draws are made once for all contrasts."""
        if self.paired:
            tables = [to_table(np.sum([c * self.scores[arm] for arm, c in coefficients.items()], axis=0))]
        else:
            tables = [self._table(arm).times(c) for arm, c in coefficients.items()]
        per_prompt = np.sum([table.prompt_means for table in tables], axis=0)
        shrink = _shrink(per_prompt, sum(table.noise for table in tables))
        drawn = np.sum([c * self._drawn(arm) for arm, c in coefficients.items()], axis=0)
        return Estimate(
            mean=sum(c * float(self.scores[arm].mean()) for arm, c in coefficients.items()),
            centre=float(per_prompt.mean()),
            prompt_draws=shrink * drawn,
            tables=tuple(tables),
            repeated=all(self.scores[arm].shape[0] > 1 for arm in coefficients),
            settings=self.settings,
        )

    def estimate_of(self, per_prompt: FloatArray, tables: Sequence[Table]) -> Estimate:
        """An estimate that is the mean of `per_prompt` [N], to which the seeds of each table add their own variance.

        The tables are those of the estimate's influence on each arm's seeds; only their variances count here.
        """
        shrink = _shrink(per_prompt, sum(table.noise for table in tables))
        return Estimate(
            mean=float(per_prompt.mean()),
            centre=float(per_prompt.mean()),
            prompt_draws=shrink * self._draw(per_prompt),
            tables=tuple(tables),
            repeated=all(table.seeds > 1 for table in tables),
            settings=self.settings,
            rounded=True,
        )

    def _table(self, arm: str) -> Table:
        if arm not in self._tables:
            self._tables[arm] = to_table(self.scores[arm])
        return self._tables[arm]

    def _drawn(self, arm: str) -> FloatArray:
        if arm not in self._prompt_draws:
            self._prompt_draws[arm] = self._draw(self._table(arm).prompt_means)
        return self._prompt_draws[arm]

    def _draw(self, per_prompt: FloatArray) -> FloatArray:
        # einsum without `optimize` sums in a fixed order in this thread; `@` would go through BLAS.
        drawn: FloatArray = np.einsum("rn,n->r", self._weights, per_prompt - per_prompt.mean())
        return drawn


def to_table(scores: FloatArray) -> Table:
    """Variance components of one table of scores [S, N]; zero where a single seed or prompt leaves none."""
    seeds, prompts = scores.shape
    prompt_means = scores.mean(axis=0)
    if seeds == 1 or alike(scores):
        return Table(prompt_means, seeds, 0.0, 0.0)
    seed_means = scores.mean(axis=1)
    noise = 0.0
    if prompts > 1:
        residual = scores - seed_means[:, None] - prompt_means[None, :] + scores.mean()
        noise = float(np.sum(residual**2)) / ((seeds - 1) * (prompts - 1)) / seeds
    return Table(prompt_means, seeds, float(seed_means.var(ddof=1)) / seeds, noise)


def alike(scores: FloatArray) -> bool:
    """Whether all seeds of scores [S, N] are one and the same, as those of an untrained control are."""
    return np.array_equal(scores, np.broadcast_to(scores[0], scores.shape))


def _shrink(per_prompt: FloatArray, noise: float) -> float:
    """λ of the package's docstring: the prompt effects' share of the standard deviation over prompts [N]."""
    variance = float(per_prompt.var(ddof=1)) if len(per_prompt) > 1 else 0.0
    return float(np.sqrt(max(0.0, 1.0 - noise / variance))) if variance > 0.0 else 0.0


def _welch(tables: Sequence[Table]) -> float:
    """Degrees of freedom of the summed seed variances (Welch–Satterthwaite); some variance is positive."""
    terms = [(table.seed_variance, table.seeds - 1) for table in tables if table.seed_variance > 0.0]
    largest = max(variance for variance, _ in terms)
    shares = [(variance / largest, freedom) for variance, freedom in terms]
    return sum(share for share, _ in shares) ** 2 / sum(share**2 / freedom for share, freedom in shares)


@lru_cache(maxsize=256)
def _student(freedom: float, settings: Resampling) -> FloatArray:
    """Stratified draws [R] of Student's t, in random order."""
    rng = np.random.default_rng([settings.seed, 1])
    slices = rng.permutation(settings.resamples)
    draws: FloatArray = stdtrit(freedom, (slices + rng.random(settings.resamples)) / settings.resamples)
    draws.flags.writeable = False
    return draws


def _counted_p(draws: FloatArray) -> float:
    """Twice the share of sorted draws [R] beyond 0, between two draws as `numpy.quantile` reads it; at most 1."""
    last = len(draws) - 1

    def position(values: FloatArray) -> float:
        """Where the sorted values pass 0: the highest quantile's that is at most 0."""
        at = int(np.searchsorted(values, 0.0, side="right")) - 1
        if at < 0 or at == last:
            return float(max(at, 0))
        return at + float(-values[at] / (values[at + 1] - values[at]))

    if last == 0:
        return 1.0
    return min(1.0, 2.0 * min(position(draws), position(-draws[::-1])) / last)


def _check(arms: Mapping[str, FloatArray], paired_seeds: bool) -> None:
    if not arms:
        raise ValueError("no arms: give the scores of at least one")
    for arm, scores in arms.items():
        if scores.ndim != 2 or scores.size == 0:
            raise ValueError(f"scores of arm {arm!r} have shape {scores.shape}: want [seeds, prompts]")
        if not np.isfinite(scores).all():
            raise ValueError(f"scores of arm {arm!r} hold NaN or infinity: leave those trials out first")
    if len({scores.shape[1] for scores in arms.values()}) > 1:
        raise ValueError("arms differ in the number of prompts: score the same prompts in every arm")
    if paired_seeds and len({scores.shape[0] for scores in arms.values()}) > 1:
        raise ValueError("paired seeds need the same seeds in every arm")


@lru_cache(maxsize=2)
def _prompt_weights(prompts: int, settings: Resampling) -> FloatArray:
    """Shares [R, N] of each prompt in each resample; rows sum to 1."""
    rng = np.random.default_rng([settings.seed, prompts])
    picks = rng.integers(0, prompts, size=(settings.resamples, prompts))
    offsets = np.arange(settings.resamples)[:, None] * prompts
    counts = np.bincount((picks + offsets).ravel(), minlength=settings.resamples * prompts)
    weights: FloatArray = counts.reshape(settings.resamples, prompts) / prompts
    weights.flags.writeable = False
    return weights
