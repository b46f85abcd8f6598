"""Learning curves: what each policy stage logged while it trained, as mean over seeds and seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rft.budget import RESOURCES
from rft.evaluation.metrics import known_mean
from rft.report.costs import spent
from rft.report.load import StudyResults, Trial
from rft.store.names import HISTORY_FILE

POINTS = 60
"""Most points of a curve that the summary keeps: a figure is narrower than that many marks."""
DIGITS = 6

BUDGET = "budget/"
"""What the history's rows say of resources starts so."""

Points = dict[int, float]


def curves(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """``{metric: {arm: {"mean": curve, "seeds": [curve with "seed"]}}}``, a curve being ``{"steps", "values"}``.

    Steps count optimiser steps. The mean is taken where every seed of the arm has a value. Arms that logged
    nothing (such as an untrained control) and metrics that an algorithm does not have are absent.
    """
    logged = {arm: {trial.seed: _history(trial) for trial in results.arm(arm)} for arm in arms}
    names = {name for seeds in logged.values() for metric in seeds.values() for name in metric}
    metrics = sorted(name for name in names if not name.startswith(BUDGET))  # those are what curves are drawn over
    found: dict[str, Any] = {}
    for metric in metrics:
        for arm, seeds in logged.items():
            own = {seed: history[metric] for seed, history in seeds.items() if metric in history}
            if own:
                found.setdefault(metric, {})[arm] = _arm(own)
    return found


def axes(results: StudyResults, arms: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What each seed had used at the steps of its curves: ``{arm: [{"seed", "steps", resource: [amount]}]}``.

    The first step is 0: with `budget.charge=full` the shared stages have been used by then. Seconds and money are of
    the run that computed the policy. A resource that no arm uses is absent everywhere, one that a stage did not note is
    absent there.
    """
    found = {arm: [axis for trial in results.arm(arm) if (axis := _axis(trial))] for arm in arms}
    used = {name for seeds in found.values() for axis in seeds for name in RESOURCES if any(axis.get(name, ()))}
    return {
        arm: [{name: values for name, values in axis.items() if name in ("seed", "steps", *used)} for axis in seeds]
        for arm, seeds in found.items()
        if seeds
    }


def _axis(trial: Trial) -> dict[str, Any] | None:
    history = _history(trial)
    counted = {name.removeprefix(BUDGET): points for name, points in history.items() if name.startswith(BUDGET)}
    if not counted:
        return None
    steps = sorted(next(iter(counted.values())))
    entry = trial.stages["policy"].entry
    clock = entry.cost.get("clock", []) if entry else []
    known = [name for name in RESOURCES if name not in ("seconds", "money") or len(clock) == len(steps)]
    times = clock if len(clock) == len(steps) else [{}] * len(steps)
    kept = _evenly(range(len(steps)))
    amounts = [spent(trial, {name: points[steps[i]] for name, points in counted.items()}, times[i]) for i in kept]
    amounts.insert(0, spent(trial, {}, {}))
    return {
        "seed": trial.seed,
        "steps": [0, *(steps[i] for i in kept)],
        **{name: [float(f"{at[name]:.{DIGITS}g}") for at in amounts] for name in known},
    }


def frontier(results: StudyResults, arms: Sequence[str], control: str | None) -> dict[str, list[dict[str, Any]]]:
    """Reward and KL of every policy that was tested on the first split: points of training and their end.

    ``{arm: [{"seed", "checkpoint", "step", "fraction", "kl", "gold", "proxy", "gain", "final"}]}``. A point of training
    is tested on some of the questions; ``gain`` is its gold reward minus the control's on the same ones, None without a
    control. ``checkpoint`` is its number, None for the end of training.
    """
    split = results.splits[0] if results.splits else None
    if split is None:
        return {arm: [] for arm in arms}
    start = _per_question(results.arm(control), split) if control else {}
    return {arm: [point for trial in results.arm(arm) for point in _tested(trial, split, start)] for arm in arms}


def _per_question(trials: Sequence[Trial], split: str) -> dict[str, float]:
    """Gold reward of each question, as mean over an arm's seeds and samples."""
    rows = trials[0].rows[split]
    gold = np.mean([trial.rows[split].per_prompt(trial.rows[split].gold) for trial in trials], axis=0)
    return dict(zip(sorted(set(rows.prompt_ids)), gold.tolist(), strict=True))


def _tested(trial: Trial, split: str, start: Mapping[str, float]) -> list[dict[str, Any]]:
    def point(
        checkpoint: int | None, step: int | None, fraction: float, asked: Collection[str], means: Mapping[str, float]
    ) -> dict[str, Any]:
        gain = means["gold"] - sum(start[one] for one in asked) / len(asked) if start and asked else None
        where = {"seed": trial.seed, "checkpoint": checkpoint, "step": step, "fraction": fraction}
        return {**where, **_finite(**means), "gain": gain, "final": checkpoint is None}

    found = [
        point(
            one.checkpoint,
            one.step,
            one.fraction,
            sorted(one.prompt_ids),
            {"kl": one.kl, "gold": one.gold, "proxy": one.proxy},
        )
        for one in trial.checkpoints
        if one.split == split
    ]
    rows = trial.rows[split]
    means = {name: known_mean(rows.per_prompt(getattr(rows, name))) for name in ("kl", "gold", "proxy")}
    return [*found, point(None, _last_step(trial), 1.0, sorted(set(rows.prompt_ids)), means)]


def _finite(**values: float) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _last_step(trial: Trial) -> int | None:
    """Optimiser steps that made the policy: 0 if it was not trained, None if the store cannot tell."""
    if _history_file(trial) is None:
        return None
    return max((step for metric in _history(trial).values() for step in metric), default=0)


def _history_file(trial: Trial) -> Path | None:
    use = trial.stages.get("policy")
    return use.file(HISTORY_FILE) if use else None


def _history(trial: Trial) -> Mapping[str, Points]:
    """Metric → step → value, of one trial; values that are no finite number are left out."""
    path = _history_file(trial)
    return {} if path is None else _read(path)


@lru_cache(maxsize=2048)  # a file of a store entry never changes
def _read(path: Path) -> Mapping[str, Points]:
    found: dict[str, Points] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


def _arm(seeds: Mapping[int, Points]) -> dict[str, Any]:
    common = set.intersection(*(set(points) for points in seeds.values()))
    mean = {step: sum(points[step] for points in seeds.values()) / len(seeds) for step in common}
    return {
        "mean": _curve(mean),
        "seeds": [{"seed": seed, **_curve(points)} for seed, points in sorted(seeds.items())],
    }


def _curve(points: Points) -> dict[str, list[Any]]:
    """The first, the last and evenly spread points between, at most `POINTS`."""
    steps = _evenly(sorted(points))
    return {"steps": steps, "values": [float(f"{points[step]:.{DIGITS}g}") for step in steps]}


def _evenly(values: Sequence[int]) -> list[int]:
    """At most `POINTS` of them, the first and the last among them."""
    if len(values) <= POINTS:
        return list(values)
    return [values[round(i * (len(values) - 1) / (POINTS - 1))] for i in range(POINTS)]
