"""Gold reward against the quality of the labels that it was learned from, one line an optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rft.evaluation.statistics import Bootstrap
from rft.report.audits import learned_from
from rft.report.load import StudyResults
from rft.report.splits import as_dict
from rft.report.wording import number, span

QUALITIES = 3
"""Labels of so many different qualities make a line."""
STEP = 0.1
"""Of agreement, that the rise of gold is told for."""
Numbers = dict[str, Any]


def label_quality(
    results: StudyResults, bootstrap: Bootstrap, arms: Mapping[str, Mapping[str, Any]]
) -> list[Numbers] | None:
    """Per optimiser with arms on labels of three or more qualities: its arms by how far their labels agree with gold.

    ``{"optimiser", "points": [{"arm", "agreement", "gold"}], "rise", "sentence"}``. Agreement is what the stage
    `preferences` measured; an arm that learned from no labels, or whose labels were not measured, is in no line.
    ``rise`` is the slope of the straight line through the points' mean gold, for a tenth of agreement more, with the
    interval over what the arms' own intervals cover; the qualities themselves are taken as they are. The sentence is
    empty unless that interval leaves out 0. None if no optimiser has a line.

    Args:
        results: the trials.
        bootstrap: of the arms' gold on the split that decides.
        arms: their records in the summary.
    """
    by_optimiser: dict[str, dict[str, float]] = {}
    for arm, record in arms.items():
        agreement = _agreement(results, arm) if record["feedback"] is not None else None
        if agreement is not None:
            by_optimiser.setdefault(record["optimiser"], {})[arm] = agreement
    found = [
        _line(bootstrap, optimiser, own)
        for optimiser, own in sorted(by_optimiser.items())
        if len(set(own.values())) >= QUALITIES
    ]
    return found or None


def quality_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What the lines of a summary show, where they show anything."""
    return [line["sentence"] for line in summary["label_quality"] or () if line["sentence"]]


def _agreement(results: StudyResults, arm: str) -> float | None:
    """Agreement with gold of the labels that taught an arm, in the mean over its seeds; None if that is not known."""
    values = [
        trial.stages["preferences"].metrics.get("gold_agreement")
        for trial in results.arm(arm)
        if "preferences" in trial.stages and "preferences" in learned_from(trial)
    ]
    known = [float(value) for value in values if isinstance(value, int | float)]
    # Rounded, or seeds with one and the same value would make another quality of it.
    return round(fmean(known), 12) if known and len(known) == len(values) else None


def _line(bootstrap: Bootstrap, optimiser: str, agreements: Mapping[str, float]) -> Numbers:
    order = sorted(agreements, key=lambda arm: (agreements[arm], arm))
    estimate = bootstrap.estimate(_slope([agreements[arm] for arm in order], order))
    interval, p_value = estimate.tested()
    rise = as_dict(interval)
    supported = p_value is not None and interval.excludes_zero
    return {
        "optimiser": optimiser,
        "points": [{"arm": arm, "agreement": agreements[arm], "gold": as_dict(bootstrap.mean(arm))} for arm in order],
        "rise": rise,
        "sentence": _sentence(optimiser, rise, agreements) if supported else "",
    }


def _slope(x: Sequence[float], arms: Sequence[str]) -> dict[str, float]:
    """What each arm's mean gold counts in the least-squares slope: STEP (x − mean x) / Σ (x − mean x)²."""
    middle = sum(x) / len(x)
    spread = sum((value - middle) ** 2 for value in x)
    return {arm: STEP * (value - middle) / spread for arm, value in zip(arms, x, strict=True)}


def _sentence(optimiser: str, rise: Mapping[str, Any], agreements: Mapping[str, float]) -> str:
    word = "rises" if rise["mean"] > 0 else "falls"
    low, high = min(agreements.values()), max(agreements.values())
    return (
        f"With better labels the gold reward of {optimiser} {word}: {number(rise['mean'], 3, sign=True)} "
        f"({span(rise, 3, sign=True)}) for every {100 * STEP:.0f} points of agreement with gold, "
        f"between {100 * low:.0f} and {100 * high:.0f} %."
    )
