"""The JSON summary of a study: every number of the report.

What decides comes from the evaluation rows alone; ``feedback`` and ``curves`` are what the stages measured
about themselves, to explain it.
Everything outside the keys ``cost`` and ``environment`` is free of times and of the machine, so that the same
study gives the same bits again. Intervals are objects ``{"mean", "low", "high", "covers"}``; a number that does not
exist is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from rft.evaluation.metrics import distinct_n, truncation_rate
from rft.evaluation.statistics import Bootstrap, Interval, Resampling
from rft.report.costs import costs
from rft.report.curves import axes, curves, frontier
from rft.report.environment import environment
from rft.report.feedback import feedback
from rft.report.load import Rows, StudyResults, Trial
from rft.report.provenance import differences, replicated, shared_stages
from rft.report.wording import cost_sentence, verdict

SCHEMA = 1
CONTROL = "sft"
METHOD = (
    "prompts resampled jointly for all arms, seeds by Student's t; percentile interval, "
    "not corrected for the number of arms compared"
)


def summarise(results: StudyResults, *, control: str = CONTROL, settings: Resampling | None = None) -> dict[str, Any]:
    """Summary of `results` against the arm `control` (differences are null if the study has no such arm)."""
    settings = settings or Resampling()
    arms = _arm_names(results, control)
    compared = control if control in arms else None
    replicate = replicated(results)
    splits = {
        split: _split(results, split, arms, compared, settings, replicate == "pipeline") for split in results.splits
    }
    stages = shared_stages(results, arms)
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "study": results.study,
        "control": compared,
        "splits": list(results.splits),
        "statistics": {
            "level": settings.level,
            "resamples": settings.resamples,
            "seed": settings.seed,
            "replicate": replicate,
            "method": METHOD,
        },
        "started_alike": all(stage["alike"] for stage in stages.values()),
        "arms": {arm: _arm(results, arm, splits) for arm in arms},
        "pairs": {split: numbers["pairs"] for split, numbers in splits.items()},
        "stages": stages,
        "feedback": feedback(results, arms),
        "curves": curves(results, arms),
        "axes": axes(results, arms),
        "frontier": frontier(results, arms),
        "failed": [
            {"arm": trial.arm, "seed": trial.seed, "trial": trial.folder, "error": trial.error}
            for trial in results.failed
        ],
        "warnings": list(results.warnings),
        "incomplete": results.incomplete,
    }
    summary["provenance"] = {"differences": differences(results, arms)}
    summary["verdict"] = verdict(summary)
    summary["cost"] = costs(results, arms)
    summary["cost"]["sentence"] = cost_sentence(summary)
    summary["environment"] = environment(results)
    return summary


def _arm_names(results: StudyResults, control: str) -> list[str]:
    """The control first, then the others by name."""
    return sorted({trial.arm for trial in results.trials}, key=lambda arm: (arm != control, arm))


def _arm(results: StudyResults, arm: str, splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    trials = results.arm(arm)
    return {
        "algorithm": trials[0].algorithm,
        "seeds": [trial.seed for trial in trials],
        "n_prompts": {split: len(set(trials[0].rows[split].prompt_ids)) for split in splits},
        "splits": {split: numbers["arms"][arm] for split, numbers in splits.items()},
        "stages": _stage_keys(trials),
    }


def _stage_keys(trials: Sequence[Trial]) -> dict[str, list[dict[str, str]]]:
    """Per stage, the distinct results that the arm's seeds used; one if the stage is shared by all of them."""
    stages: dict[str, dict[str, str]] = {}
    for trial in trials:
        for stage, use in trial.stages.items():
            stages.setdefault(stage, {})[use.key] = use.digest
    return {stage: [{"key": key, "digest": digest} for key, digest in uses.items()] for stage, uses in stages.items()}


def _split(
    results: StudyResults,
    split: str,
    arms: Sequence[str],
    control: str | None,
    settings: Resampling,
    paired: bool,
) -> dict[str, Any]:
    trials = {arm: results.arm(arm) for arm in arms}
    paired = paired and len({tuple(trial.seed for trial in members) for members in trials.values()}) == 1
    gold = {
        arm: np.stack([trial.rows[split].per_prompt(trial.rows[split].gold) for trial in members])
        for arm, members in trials.items()
    }
    bootstrap = Bootstrap(gold, settings, paired_seeds=paired)
    return {
        "arms": {arm: _arm_split(trials[arm], split, bootstrap, arm, control) for arm in arms},
        "pairs": [
            {"arm": a, "against": b, **_difference(bootstrap.difference(a, b))} for a, b in combinations(arms[::-1], 2)
        ],
    }


def _arm_split(
    trials: Sequence[Trial], split: str, bootstrap: Bootstrap, arm: str, control: str | None
) -> dict[str, Any]:
    per_seed = [{"seed": trial.seed, **_seed_numbers(trial.rows[split])} for trial in trials]
    numbers: dict[str, Any] = {
        name: _mean([seed[name] for seed in per_seed]) for name in ("proxy", "kl", "length", "truncation", "distinct_2")
    }
    return {
        "gold": _interval(bootstrap.mean(arm)),
        "difference": _difference(bootstrap.difference(arm, control)) if control and arm != control else None,
        **numbers,
        "per_seed": per_seed,
    }


def _seed_numbers(rows: Rows) -> dict[str, float | None]:
    """Means of one trial; each prompt counts once, however many samples it has."""

    def mean(values: npt.NDArray[np.float64]) -> float | None:
        return _number(rows.per_prompt(values).mean())

    return {
        "gold": mean(rows.gold),
        "proxy": mean(rows.proxy),
        "kl": mean(rows.kl),
        "length": mean(rows.length),
        "truncation": truncation_rate(rows.truncated),
        "distinct_2": _number(distinct_n(rows.responses, 2)) or 0.0,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over seeds; None if one of them has no number."""
    present = [value for value in values if value is not None]
    return _number(np.mean(present)) if len(present) == len(values) else None


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "covers": interval.covers,
    }


def _difference(interval: Interval) -> dict[str, Any]:
    return {
        **_interval(interval),
        "excludes_zero": interval.excludes_zero,
        "verdict": interval.verdict,
    }
