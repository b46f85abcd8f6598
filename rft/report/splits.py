"""The numbers of one evaluation split: every arm's, every comparison's, the ranking.

Dimensions: `S` seeds of an arm, `N` prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from rft.evaluation.metrics import distinct_n, known_mean, known_prompt_means, truncation_rate
from rft.evaluation.statistics import (
    Bootstrap,
    Estimate,
    FloatArray,
    Interval,
    Resampling,
    bradley_terry,
    decide,
    holm,
    iqm_scores,
    probability_of_improvement,
    seeds_needed,
    win_rate,
    win_rate_lc,
)
from rft.report.load import StudyResults, Trial
from rft.report.provenance import reward_models
from rft.report.selection import one_scale

FULL_PAIRS = 20
"""Pairs grow with the square of the arms. With more arms than this, those compared with each other are the control and
the ones with the highest mean gold, up to this many; every other is compared with the control only. Holm's correction
still counts all pairs, since the choice of arms looks at the same scores."""

Numbers = dict[str, Any]
Pair = tuple[str, str]
MEASURES = ("gold", "proxy", "kl", "length")


def number(value: Any) -> float | None:
    """A finite number, or None."""
    found = float(value)
    return found if math.isfinite(found) else None


def as_dict(interval: Interval) -> Numbers:
    """An interval as the summary holds it."""
    return {
        "mean": interval.mean,
        "low": number(interval.low),
        "high": number(interval.high),
        "covers": interval.covers,
    }


def _probability(interval: Interval) -> Interval:
    """An interval of a mean of probabilities, cut where there are none: what lies beyond covers nothing."""
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


class Split:
    """One split's scores by arm, and what is computed of them.

    `paired`: seed s of every arm shares its candidates, labels and reward model (`replicate=pipeline`).
    """

    def __init__(
        self,
        results: StudyResults,
        split: str,
        arms: Sequence[str],
        control: str | None,
        settings: Resampling,
        *,
        paired: bool,
    ) -> None:
        self.arms, self.control, self.split = list(arms), control, split
        self.trials = {arm: results.arm(arm) for arm in arms}
        paired = paired and len({tuple(trial.seed for trial in members) for members in self.trials.values()}) == 1
        # Every trial of a study answered the same prompts in the same order.
        ids, index = np.unique(np.array(results.trials[0].rows[split].prompt_ids), return_inverse=True)
        self.scores: dict[str, dict[str, FloatArray]] = {  # measure → arm → [S, N]
            name: {
                arm: np.stack([known_prompt_means(getattr(t.rows[split], name), index, len(ids)) for t in members])
                for arm, members in self.trials.items()
            }
            for name in MEASURES
        }
        self.bootstrap = Bootstrap(self.scores["gold"], settings, paired_seeds=paired)
        self.shown = self._shown()

    def _shown(self) -> list[str]:
        """The arms that are compared with one another, in the order of the arms."""
        best = sorted(self.arms, key=lambda arm: -self.bootstrap.scores[arm].mean())
        kept = {*best[:FULL_PAIRS], self.control}
        return [arm for arm in self.arms if arm in kept]

    def numbers(self) -> Numbers:
        """`arms`, `pairs` and `ranking` of the split."""
        pairs: list[Pair] = list(combinations(self.shown[::-1], 2))
        pairs += [(arm, self.control) for arm in self.arms[::-1] if self.control and arm not in self.shown]
        estimates = {pair: self.bootstrap.estimate({pair[0]: 1.0, pair[1]: -1.0}) for pair in pairs}
        tested = {pair: estimate.tested() for pair, estimate in estimates.items()}
        rates = {pair: self._win_rates(*pair) for pair in pairs}
        # The control is the first arm, so it stands last in each of its pairs.
        against_control = {arm: (arm, against) for arm, against in pairs if against == self.control}
        every_pair = len(self.arms) * (len(self.arms) - 1) // 2
        to_control = _differences({pair: estimates[pair] for pair in against_control.values()}, tested, None)
        of_pairs = _differences(estimates, tested, every_pair)
        return {
            "arms": {
                arm: self._arm(arm, to_control.get(pair), rates.get(pair)) if pair else self._arm(arm, None, None)
                for arm, pair in ((arm, against_control.get(arm)) for arm in self.arms)
            },
            "pairs": [
                {
                    "arm": arm,
                    "against": against,
                    **of_pairs[arm, against],
                    "probability_of_improvement": self._improvement(arm, against),
                    **rates[arm, against],
                }
                for arm, against in pairs
            ],
            "ranking": [
                {
                    "arm": ranked.arm,
                    "strength": ranked.strength.mean,
                    "low": ranked.strength.low,
                    "high": ranked.strength.high,
                    "covers": ranked.strength.covers,
                }
                for ranked in bradley_terry(self.bootstrap, self.shown)
            ],
        }

    def _win_rates(self, arm: str, against: str) -> Numbers:
        return {
            "win_rate": as_dict(win_rate(self.bootstrap, arm, against)),
            "win_rate_lc": as_dict(win_rate_lc(self.bootstrap, arm, against, self.scores["length"])),
        }

    def _improvement(self, arm: str, against: str) -> Numbers | None:
        found = probability_of_improvement(self.bootstrap, arm, against)
        return as_dict(found) if found else None

    def _arm(self, arm: str, difference: Numbers | None, rates: Numbers | None) -> Numbers:
        per_seed = [self._seed(trial, arm, s) for s, trial in enumerate(self.trials[arm])]
        robust = Bootstrap({arm: iqm_scores(self.scores["gold"][arm])}, self.bootstrap.settings)
        return {
            "gold": as_dict(_probability(self.bootstrap.mean(arm))),
            "iqm": as_dict(_probability(robust.mean(arm))),
            "difference": difference,
            **(rates or {"win_rate": None, "win_rate_lc": None}),
            "gap": self._gap(arm),
            **{
                name: _mean([seed[name] for seed in per_seed])
                for name in ("proxy", "kl", "length", "truncation", "distinct_2")
            },
            "per_seed": per_seed,
        }

    def _seed(self, trial: Trial, arm: str, s: int) -> Numbers:
        """Means of one trial; each prompt counts once, however many samples it has."""
        rows = trial.rows[self.split]
        return {
            "seed": trial.seed,
            **{name: number(known_mean(self.scores[name][arm][s])) for name in MEASURES},
            "truncation": truncation_rate(rows.truncated),
            "distinct_2": number(distinct_n(rows.responses, 2)) or 0.0,
        }

    def _gap(self, arm: str) -> Numbers | None:
        """Change of proxy minus change of gold against the control, each in the control's standard deviations.

        None without a proxy on the control's scale: that of the same reward model. A prompt counts if every seed of
        both arms has a proxy of it.
        """
        if self.control is None or arm == self.control:
            return None
        if not one_scale(reward_models(self.trials[arm]), reward_models(self.trials[self.control])):
            return None
        both_arms = (arm, self.control)
        kept = np.all([np.isfinite(self.scores["proxy"][name]).all(axis=0) for name in both_arms], axis=0)
        gold, proxy = ({name: self.scores[what][name][:, kept] for name in both_arms} for what in ("gold", "proxy"))
        scale = (float(gold[self.control].std()), float(proxy[self.control].std())) if kept.any() else (0.0, 0.0)
        if min(scale) <= 0.0:
            return None
        both = {name: proxy[name] / scale[1] - gold[name] / scale[0] for name in both_arms}
        paired = Bootstrap(both, self.bootstrap.settings, paired_seeds=self.bootstrap.paired)
        return as_dict(replace(paired.estimate({arm: 1.0, self.control: -1.0}), rounded=True).interval())


def _differences(
    estimates: Mapping[Pair, Estimate],
    tested: Mapping[Pair, tuple[Interval, float | None]],
    family: int | None,
) -> dict[Pair, Numbers]:
    """The entries of one table of comparisons, corrected for all of them; `family` counts those not shown too."""
    given = [pair for pair in estimates if tested[pair][1] is not None]
    p_values = [p for pair in given if (p := tested[pair][1]) is not None]
    family = max(family or 0, len(given))
    adjusted = dict(zip(given, holm(p_values, family), strict=True))
    settled = sum(p < estimates[pair].settings.error_rate for pair, p in adjusted.items())
    found = {}
    for pair, estimate in estimates.items():
        (interval, p_value), holm_p = tested[pair], adjusted.get(pair)
        verdict = decide(interval, holm_p, estimate.settings.error_rate)
        # The next to be settled has to pass the correction for all that are not.
        needed = seeds_needed(estimate, family - settled) if verdict == "cannot tell" else None
        found[pair] = {
            **as_dict(interval),
            "excludes_zero": interval.excludes_zero,
            "p_value": p_value,
            "holm_p": holm_p,
            "verdict": verdict,
            "seeds_needed": needed,
        }
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over seeds; None if one of them has no number."""
    present = [value for value in values if value is not None]
    return number(np.mean(present)) if len(present) == len(values) else None
