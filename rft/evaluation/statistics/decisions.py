"""From p-values to verdicts: Holm's correction, and how many seeds would settle a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import nctdtr, ndtr, stdtrit

from rft.evaluation.statistics.bootstrap import Estimate
from rft.evaluation.statistics.intervals import Interval

POWER = 0.8
"""The chance of a verdict that `seeds_needed` aims at."""
MOST_SEEDS = 1000
"""A difference that needs more seeds than this is called not to be known: prompts, or the effect, are the limit."""


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Adjusted p-values: rejecting those up to α wrongly rejects any true null in at most α of the studies.

    p̃_(k) = max over j ≤ k of (m − j + 1)·p_(j), at most 1, with p_(1) ≤ … ≤ p_(m). Holds whatever the dependence
    between the comparisons, such as a control that all share.

    Args:
        p_values: of the comparisons, in any order.
        family: m, how many were, or could have been, looked at; at least (and by default) as many as are given. The
            ones not given count as if their p-values were larger than all of these.

    Source: Holm 1979 (Scand. J. Stat. 6:65).
    """
    size = max(len(p_values), family or 0)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (size - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def decide(interval: Interval, adjusted: float | None, error_rate: float) -> str:
    """`better`, `worse` or `cannot tell` by an adjusted p-value; `no verdict` where there is none."""
    if adjusted is None:
        return "no verdict"
    if adjusted >= error_rate:
        return "cannot tell"
    return "better" if interval.mean > 0.0 else "worse"


def seeds_needed(estimate: Estimate, multiplier: float = 1.0) -> int | None:
    """Seeds an arm, in all, at which a difference would be settled with power 0.8, were it what it looks like.

    With S seeds an arm the estimate's variance is V(S) = V_prompts + Σ_a σ_a²/S and its degrees of freedom, by
    Satterthwaite, ν(S) = V(S)²·(S − 1) / Σ_a (σ_a²/S)². The power is the chance that a noncentral t with ν(S) and the
    noncentrality |estimate|/√V(S) passes the two-sided critical value at the level α/multiplier.

    Args:
        estimate: a difference that is not settled.
        multiplier: the factor that Holm's correction puts on its p-value.

    Returns:
        The number, more than there are now; None if it is not to be known: one seed only, no difference, or more than
        `MOST_SEEDS`, as where the prompts alone leave it open.
    """
    variances = [table.seed_variance * table.seeds for table in estimate.tables if table.seed_variance > 0.0]
    if not estimate.repeated or not variances or estimate.mean == 0.0:
        return None
    from_prompts = float(estimate.prompt_draws.var())
    level = estimate.settings.error_rate / multiplier

    def settled(seeds: int) -> bool:
        shares = [variance / seeds for variance in variances]
        total = from_prompts + sum(shares)
        freedom = total**2 * (seeds - 1) / sum(share**2 for share in shares)
        return _power(abs(estimate.mean) / math.sqrt(total), freedom, level) >= POWER

    low, high = max(table.seeds for table in estimate.tables) + 1, MOST_SEEDS
    if not settled(high):
        return None
    while low < high:  # the power grows with the seeds
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle + 1, high)
    return low


def _power(effect: float, freedom: float, level: float) -> float:
    """Chance that t passes its upper critical value at a noncentrality of `effect` standard errors."""
    freedom = min(freedom, 1e6)
    critical = float(stdtrit(freedom, 1.0 - level / 2.0))
    below = float(nctdtr(freedom, effect, critical))
    # Far out the noncentral t is not computed; there the normal law decides and is 0 or 1.
    return 1.0 - below if math.isfinite(below) else float(ndtr(effect - critical))
