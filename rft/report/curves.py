"""Learning curves: what each policy stage logged while it trained, as mean over seeds and seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rft.report.load import StudyResults, Trial

HISTORY_FILE = "history.json"
POINTS = 60
"""Most points of a curve that the summary keeps: a figure is narrower than that many marks."""
DIGITS = 6

Points = dict[int, float]


def curves(results: StudyResults, arms: Sequence[str]) -> dict[str, Any]:
    """``{metric: {arm: {"mean": curve, "seeds": [curve with "seed"]}}}``, a curve being ``{"steps", "values"}``.

    Steps count optimiser steps. The mean is taken where every seed of the arm has a value. Arms that logged
    nothing (such as an untrained control) and metrics that an algorithm does not have are absent.
    """
    logged = {arm: {trial.seed: _history(trial) for trial in results.arm(arm)} for arm in arms}
    metrics = sorted({name for seeds in logged.values() for metric in seeds.values() for name in metric})
    found: dict[str, Any] = {}
    for metric in metrics:
        for arm, seeds in logged.items():
            own = {seed: history[metric] for seed, history in seeds.items() if metric in history}
            if own:
                found.setdefault(metric, {})[arm] = _arm(own)
    return found


def _history(trial: Trial) -> dict[str, Points]:
    """Metric → step → value, of one trial; values that are no finite number are left out."""
    use = trial.stages.get("policy")
    path = use.file(HISTORY_FILE) if use else None
    if path is None:
        return {}
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
    steps = sorted(points)
    if len(steps) > POINTS:
        steps = [steps[round(i * (len(steps) - 1) / (POINTS - 1))] for i in range(POINTS)]
    return {"steps": steps, "values": [float(f"{points[step]:.{DIGITS}g}") for step in steps]}
