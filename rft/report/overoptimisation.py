"""How far training may go before the gold reward falls: Gao et al.'s curves fitted to the frontier's points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft.evaluation.statistics import Curve, fit_curve
from rft.report.splits import as_dict
from rft.report.wording import number, shortlist, span

AT_START = 0.01
"""A control is the start if its KL, in nats, is below this."""

LETTERS = {"alpha": "α", "beta": "β"}

Points = Mapping[str, Sequence[Mapping[str, Any]]]


def overoptimisation(summary: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The fitted law of each arm; None where the points are too few, or without a start to measure the gain from.

    An arm that picks among n answers has one distance: those of one algorithm with the same reward model are points of
    one curve, and each of them has the law that is fitted to all.
    """
    control, splits = summary["control"], summary["splits"]
    start = summary["arms"][control]["splits"][splits[0]] if control and splits else None
    if start is None or start["kl"] is None or abs(start["kl"]) >= AT_START:
        return dict.fromkeys(summary["arms"])
    level = summary["statistics"]["level"]
    return {
        arm: _fitted([point for one in group for point in summary["frontier"][one]], level, group)
        for group in _groups(summary)
        for arm in group
    }


def _groups(summary: Mapping[str, Any]) -> list[list[str]]:
    """The arms whose points lie on one curve, in the order of the arms."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for arm, record in summary["arms"].items():
        picked = arm != summary["control"] and untrained(summary["frontier"][arm])
        models = sorted(use["key"] for use in record["stages"].get("reward_model", ())) if picked else ()
        groups.setdefault((record["algorithm"], *models) if picked else (arm, "alone"), []).append(arm)
    return list(groups.values())


def law_of(points: Sequence[Mapping[str, Any]]) -> str:
    """Which of Gao et al.'s laws policies follow: ``best_of_n`` if no step of an optimiser made any, else ``rl``.

    What moved from the start without training was picked among the start policy's answers, whatever did it.
    """
    return "best_of_n" if untrained(points) else "rl"


def untrained(points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no step of an optimiser made any of these policies."""
    return all(point["step"] == 0 for point in points)


def _fitted(points: Sequence[Mapping[str, Any]], level: float, arms: Sequence[str]) -> dict[str, Any] | None:
    """The law of the points of `arms`."""
    whole = [point for point in points if point["kl"] is not None and point["gain"] is not None]
    law = law_of(whole)
    curve = fit_curve(
        law,
        np.array([point["kl"] for point in whole], dtype=np.float64),
        np.array([point["gain"] for point in whole], dtype=np.float64),
        [point["seed"] for point in whole],
        level,
    )
    if curve is None:
        return None
    record = {
        "law": law,
        "arms": list(arms),
        "alpha": as_dict(curve.alpha),
        "beta": as_dict(curve.beta),
        "points": curve.points,
        "falls": curve.falls,
    }
    together = f"{shortlist(arms)} on one curve: " if len(arms) > 1 else ""
    return {**record, "sentence": together + _sentence(curve, record)}


def _sentence(curve: Curve, record: Mapping[str, Any]) -> str:
    formula = "d(α − β log d)" if curve.law == "rl" else "d(α − βd)"
    parts = []
    for name, letter in LETTERS.items():
        value = record[name]
        bounds = f" ({span(value, 3)})" if value["low"] is not None else " (one seed, no interval)"
        parts.append(f"{letter} = {number(value['mean'], 3)}{bounds}")
    if all(record[name]["low"] is not None and record[name]["low"] <= 0 <= record[name]["high"] for name in LETTERS):
        return f"these points do not tell how gold goes with KL: {parts[0]} and {parts[1]} in {formula} with d = √KL."
    text = f"gold rises from the start by {formula} with d = √KL, {parts[0]} and {parts[1]}"
    reached = number(curve.furthest**2, 1)
    if curve.falls and curve.peak is not None:
        peak = number(curve.peak**2, 1)
        return f"{text}; by this curve it is highest at a KL of {peak} nats, while the points reach {reached}."
    text += f"; the points, up to a KL of {reached} nats, do not show a fall"
    if curve.peak is None:
        return f"{text}."
    if curve.peak >= curve.furthest:
        return f"{text}: the curve's peak would lie beyond all points."
    why = "no seed was repeated" if math.isnan(curve.beta.low) else "the interval of β does not lie above 0"
    return f"{text} for certain: {why}."
