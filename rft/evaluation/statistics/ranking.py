"""One scale of strength for all arms, from who beats whom on each prompt.

Dimensions: `K` arms, `S` seeds of an arm, `N` prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from rft.evaluation.statistics.bootstrap import Bootstrap, Table, to_table
from rft.evaluation.statistics.intervals import FloatArray, Interval
from rft.evaluation.statistics.wins import wins

PRIOR = 0.5
"""Prompts that each arm of a pair wins in advance: an arm that wins all keeps a finite strength."""
DIGITS = 9
"""Decimals of a strength: choix ends its iteration at 1e-8."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """An arm's Bradley–Terry log-strength."""

    arm: str
    strength: Interval


def bradley_terry(bootstrap: Bootstrap, arms: Sequence[str]) -> list[Ranked]:
    """The arms by strength θ, best first: P(a beats b on a prompt) = σ(θ_a − θ_b), mean strength 0.

    W[a, b] is the number of prompts that a wins, as the mean over pairs of seeds, ties half; each arm of a pair wins
    `PRIOR` more. θ comes from choix. Its interval is from the study's resampling of seeds and prompts, linearised:
    dθ = H⁺·dg with the likelihood's score g_a = Σ_b W[a, b] − n_ab·σ(θ_a − θ_b) and its curvature H, so that what
    one seed does to each strength is known without a fit for each resample.

    Source: Bradley & Terry 1952 (Biometrika 39:324); Maystre & Grossglauser 2015 (NeurIPS), as in choix.
    """
    if len(arms) < 2:
        return []
    theta, spread = _strengths(bootstrap, arms)
    influence = _Influence(bootstrap, arms, theta, spread)
    found = []
    for k, arm in enumerate(arms):
        interval = bootstrap.estimate_of(*influence.of(k)).interval()
        # Influences sum to 0 but for the prior's share, which is no part of the estimate.
        shift = float(theta[k]) - interval.mean
        moved = Interval(float(theta[k]), interval.low + shift, interval.high + shift, interval.covers)
        found.append(Ranked(arm, moved))
    return sorted(found, key=lambda ranked: (-ranked.strength.mean, ranked.arm))


def _strengths(bootstrap: Bootstrap, arms: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """θ [K] and the pseudo-inverse [K, K] of the likelihood's curvature there."""
    from choix import ilsr_pairwise_dense
    from threadpoolctl import threadpool_limits

    prompts = bootstrap.scores[arms[0]].shape[1]
    won = np.zeros((len(arms), len(arms)))
    for a, ours in enumerate(arms):
        for b, theirs in enumerate(arms[:a]):
            rate = wins(bootstrap.scores[ours], bootstrap.scores[theirs], paired=bootstrap.paired).mean()
            won[a, b] = prompts * rate + PRIOR
            won[b, a] = prompts + 2.0 * PRIOR - won[a, b]
    with threadpool_limits(1):  # equal bits whatever the number of threads
        theta = np.asarray(ilsr_pairwise_dense(won, max_iter=10_000))
        theta = np.round(theta - theta.mean(), DIGITS)
        chance = expit(theta[:, None] - theta[None, :])
        curvature = -(prompts + 2.0 * PRIOR) * chance * (1.0 - chance)
        np.fill_diagonal(curvature, 0.0)
        np.fill_diagonal(curvature, -curvature.sum(axis=1))
        return theta, np.linalg.pinv(curvature, hermitian=True)


class _Influence:
    """What each seed of each arm does to the strengths."""

    def __init__(self, bootstrap: Bootstrap, arms: Sequence[str], theta: FloatArray, spread: FloatArray) -> None:
        self.arms, self.theta, self.spread, self.paired = arms, theta, spread, bootstrap.paired
        self.excess: dict[tuple[int, int], FloatArray] = {}  # [S, N]: wins of an arm's seeds beyond what θ expects
        for a, ours in enumerate(arms):
            for b, theirs in enumerate(arms):
                if a != b:
                    won = wins(bootstrap.scores[ours], bootstrap.scores[theirs], paired=self.paired)
                    own = won if self.paired else won.mean(axis=1)
                    self.excess[a, b] = own - expit(theta[a] - theta[b])

    def of(self, k: int) -> tuple[FloatArray, list[Table]]:
        """θ_k by prompt [N], and the tables of the seeds that move it."""
        gain = self.spread[k][:, None] - self.spread[k][None, :]
        prompts = next(iter(self.excess.values())).shape[1]
        own = [
            prompts * np.sum([gain[c, b] * self.excess[c, b] for b in range(len(self.arms)) if b != c], axis=0)
            for c in range(len(self.arms))
        ]
        # Both arms of a pair hold its wins: half of each is the pair's, all of it is what the arm's own seeds do.
        per_prompt = self.theta[k] + np.sum([table.mean(axis=0) for table in own], axis=0) / 2.0
        tables = [to_table(np.sum(own, axis=0) / 2.0)] if self.paired else [to_table(table) for table in own]
        return per_prompt, tables
