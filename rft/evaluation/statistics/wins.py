"""How often one arm's answer beats another's to the same prompt, and one arm's seed another's.

Dimensions: `S` seeds of an arm, `T` seeds of the other, `N` prompts; a prompt's score is the mean of its samples.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit, stdtrit

from rft.evaluation.statistics.bootstrap import Bootstrap, Estimate, alike, to_table
from rft.evaluation.statistics.intervals import SEEDS_ONLY, FloatArray, Interval

PRIOR = 0.5
"""Half a win and half a loss at equal length: a prompt's weight, so that a rate of 0 or 1 keeps a finite logit."""
SLOPE_SCALE = 2.5
"""Standard deviation of the slope's prior, for a predictor within ±1: keeps wins that the length separates finite."""
STEPS = 50


def wins(ours: FloatArray, theirs: FloatArray, *, paired: bool = False) -> FloatArray:
    """1 where `ours` [S, N] is above `theirs` [T, N], 0.5 where equal, else 0: shape [S, T, N], paired [S, N]."""
    return 0.5 * (1.0 + np.sign(_against(ours, theirs, paired)))


def _against(ours: FloatArray, theirs: FloatArray, paired: bool) -> FloatArray:
    found: FloatArray = ours - theirs if paired else ours[:, None, :] - theirs[None, :, :]
    return found


def crossed(bootstrap: Bootstrap, values: FloatArray) -> Estimate:
    """The mean of `values` over the seeds of two arms and prompts, [S, T, N]; [S, N] where seeds are paired.

    Each arm's seeds add the variance of what they do to the mean, averaged over the other's (Hoeffding's
    decomposition of a two-sample U-statistic).
    """
    if values.ndim == 2:
        table = to_table(values)
        return bootstrap.estimate_of(table.prompt_means, [table])
    tables = [to_table(values.mean(axis=1)), to_table(values.mean(axis=0))]
    return bootstrap.estimate_of(values.mean(axis=(0, 1)), tables)


def win_rate(bootstrap: Bootstrap, arm: str, against: str) -> Interval:
    """Share of prompts and pairs of seeds in which `arm` scores higher, ties half.

    The interval is that of the share's logit, which keeps it within 0 and 1 and covers better where few seeds decide.
    """
    won = wins(bootstrap.scores[arm], bootstrap.scores[against], paired=bootstrap.paired)
    found = crossed(bootstrap, _intercepts(won, np.zeros_like(won))).interval()
    rate = float(won.mean())
    # A rate of 1 is beyond its own interval by the prior's half a loss.
    return Interval(rate, min(rate, float(expit(found.low))), max(rate, float(expit(found.high))), found.covers)


def win_rate_lc(bootstrap: Bootstrap, arm: str, against: str, lengths: dict[str, FloatArray]) -> Interval:
    """The win rate at equal length: σ(β₀) of the logistic regression P(win) = σ(β₀ + β₁·tanh(Δlength/sd(Δlength))).

    Fitted to every prompt and pair of seeds, ties half, with a weak prior (`PRIOR`, `SLOPE_SCALE`) that keeps it
    finite where lengths separate wins from losses. The interval is that of β₀, linearised. Where all lengths are
    equal there is nothing to control for: it is the raw win rate.

    `lengths` [S, N] by arm, in tokens.

    Source: Dubois et al. 2024 (arXiv 2404.04475), without its terms for the difficulty of a prompt.
    """
    longer = _against(lengths[arm], lengths[against], bootstrap.paired)
    spread = float(longer.std())
    if spread == 0.0:
        return win_rate(bootstrap, arm, against)
    won = wins(bootstrap.scores[arm], bootstrap.scores[against], paired=bootstrap.paired)
    found = crossed(bootstrap, _intercepts(won, np.tanh(longer / spread))).interval()
    return Interval(float(expit(found.mean)), float(expit(found.low)), float(expit(found.high)), found.covers)


def _intercepts(won: FloatArray, longer: FloatArray) -> FloatArray:
    """β₀ + each observation's influence on it, in the shape of `won`, with a prompt as the unit of weight."""
    weight = won.shape[-1] / won.size
    intercept, slope = float(logit((won.sum() * weight + PRIOR) / (won.shape[-1] + 2 * PRIOR))), 0.0
    for _ in range(STEPS):
        chance = expit(intercept + slope * longer)
        residual, curvature = won - chance, chance * (1.0 - chance)
        base = float(expit(intercept))
        gradient = (
            weight * float(residual.sum()) + PRIOR * (1.0 - 2.0 * base),
            weight * float((residual * longer).sum()) - slope / SLOPE_SCALE**2,
        )
        own = weight * float(curvature.sum()) + 2.0 * PRIOR * base * (1.0 - base)
        mixed = weight * float((curvature * longer).sum())
        other = weight * float((curvature * longer**2).sum()) + 1.0 / SLOPE_SCALE**2
        determinant = own * other - mixed**2
        step = (
            (other * gradient[0] - mixed * gradient[1]) / determinant,
            (own * gradient[1] - mixed * gradient[0]) / determinant,
        )
        largest = max(abs(step[0]), abs(step[1]))
        damped = min(1.0, 2.0 / largest) if largest > 0.0 else 1.0
        intercept, slope = intercept + damped * step[0], slope + damped * step[1]
        if largest < 1e-10:
            break
    influence = won.shape[-1] * residual * (other - mixed * longer) / determinant
    centred: FloatArray = intercept + influence - influence.mean()
    return centred


def probability_of_improvement(bootstrap: Bootstrap, arm: str, against: str) -> Interval | None:
    """The chance that a seed of `arm` scores a higher mean than a seed of the other, ties half, on these prompts.

    The Mann–Whitney statistic over the seeds' means. The interval is Newcombe's fifth, a score interval, which stays
    honest where all seeds of one arm lie above the other's and resampled seeds would only ever say 1; with Student's
    quantile for its normal one it covers at least as often as said with three seeds too. An arm whose seeds are all one
    policy counts as a fixed mark: then it is Wilson's interval for the other's seeds. None unless both arms have two
    seeds or more.

    Sources: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3; Newcombe 2006 (Stat. Med. 25:559), method 5.
    """
    ours, theirs = bootstrap.scores[arm], bootstrap.scores[against]
    if min(len(ours), len(theirs)) < 2:
        return None
    chance = float(wins(ours.mean(axis=1)[:, None], theirs.mean(axis=1)[:, None]).mean())
    fixed = alike(ours), alike(theirs)
    if all(fixed):
        return Interval(chance, chance, chance, SEEDS_ONLY)
    free = len(theirs) if fixed[0] else len(ours) if fixed[1] else None
    freedom = free - 1 if free is not None else len(ours) + len(theirs) - 2
    quantile = float(stdtrit(freedom, 0.5 + bootstrap.settings.level / 2.0))

    def variance(theta: float) -> float:
        if free is not None:
            return theta * (1.0 - theta) / free
        extra = ((len(ours) + len(theirs)) / 2.0 - 1.0) * ((1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta))
        return theta * (1.0 - theta) * (1.0 + extra) / (len(ours) * len(theirs))

    def bound(end: float) -> float:
        """Where |chance − θ| is `quantile` standard errors of θ, between the chance and 0 or 1."""
        inside, outside = chance, end
        for _ in range(60):
            middle = (inside + outside) / 2.0
            near = abs(chance - middle) <= quantile * math.sqrt(variance(middle))
            inside, outside = (middle, outside) if near else (inside, middle)
        return inside

    return Interval(chance, bound(0.0), bound(1.0), SEEDS_ONLY)
