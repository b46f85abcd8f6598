"""The figures about judges and their labels: agreement by clarity, calibration, gold against the labels' quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft.report import wording
from rft.report.figures import Figure, Series
from rft.report.judge_views import titles
from rft.report.measures import clear
from rft.report.wording import number, percent, span

ONE_PERSON = "one person"
MOST = 8
"""Judges that are drawn: more lines on one diagonal hide one another."""


def judge_figures(summary: Mapping[str, Any]) -> list[Figure]:
    """Those that the study has numbers for."""
    return [figure for figure in (clarity(summary), calibration(summary), label_quality(summary)) if figure]


def clarity(summary: Mapping[str, Any]) -> Figure | None:
    """A judge's agreement with people over how clear the pairs are; None without an audit that tells."""
    named = [
        (title, steps)
        for title, audit in zip(titles(summary), summary["audits"], strict=True)
        if len(steps := _by_clarity(audit)) > 1
    ]
    if not named:
        return None
    series = []
    people = [[(above, (one.get("ceiling") or {}).get("majority")) for above, one in steps] for _, steps in named]
    alike = all(one == people[0] for one in people) and all(share is not None for _, share in people[0])
    if alike:  # else the judges were asked about different pairs, and no one line is people's on all of them
        series.append(
            Series(0, ONE_PERSON, "fit", [above for above, _ in people[0]], [share for _, share in people[0]])
        )
    for place, (title, steps) in enumerate(named[:MOST], 1):
        found = [one["accuracy"] for _, one in steps]
        notes = [
            f"{title}: {percent(one['value'])} of {wording.counted(one['n'], 'pair')}, clear by {number(above, 1)}"
            for (above, _), one in zip(steps, found, strict=True)
        ]
        x, y = [above for above, _ in steps], [one["value"] for one in found]
        series.append(
            Series(place, title, "trend", x, y, [one["low"] for one in found], [one["high"] for one in found], notes)
        )
    caption = (
        "A point is the pairs whose mean ratings are further apart, in points of a scale of eight; that at 0 is all of "
        "them. Bars are 95 % intervals."
    )
    caption += " The dotted line is one person's agreement with the majority on the same pairs." if alike else ""
    if len(named) > MOST:
        caption += f" Shown are the first {MOST} of {len(named)} judges."
    return Figure(
        "clarity", "How often the judge is right, by how clear the pair is", "least difference of the mean ratings",
        "share of pairs that it orders as people do", tuple(series), caption,
        names=(ONE_PERSON if alike else "", *(title for title, _ in named[:MOST])),
    )  # fmt: skip


def _by_clarity(audit: Mapping[str, Any]) -> list[tuple[float, Mapping[str, Any]]]:
    """How clear the pairs are at least, and what was measured on them, of all pairs and of the clear ones."""
    parts = [{"above": 0.0} | (audit.get("human") or {}), *clear(audit)]
    return [(part["above"], part) for part in parts if part.get("accuracy")]


def calibration(summary: Mapping[str, Any]) -> Figure | None:
    """How often people agree with a judge over how sure it is; None without an audit that tells."""
    named = [
        (title, kept)
        for title, audit in zip(titles(summary), summary["audits"], strict=True)
        if (kept := [one for one in (audit.get("calibration") or {}).get("bins") or () if one["pairs"]])
    ]
    if not named:
        return None
    series = [Series(0, "calibrated", "fit", [0.0, 1.0], [0.0, 1.0])]
    for place, (title, bins) in enumerate(named[:MOST], 1):
        notes = [
            f"{title}: preference {number(one['judge'])}, people {percent(one['human'])} of "
            f"{wording.counted(one['pairs'], 'pair')}"
            for one in bins
        ]
        x, y = ([one[which] for one in bins] for which in ("judge", "human"))
        series.append(Series(place, title, "trend", x, y, notes=notes))
    caption = (
        "A point is the pairs of which the judge was about as sure. On the dotted line people agree as often as it "
        "says; a curve that is flatter than the line is of a judge that is surer than it is right."
    )
    if len(named) > MOST:
        caption += f" Shown are the first {MOST} of {len(named)} judges."
    return Figure(
        "calibration", "How sure the judge is, and how right", "judge's preference for an answer",
        "share of people's verdicts for it", tuple(series), caption,
        names=("", *(title for title, _ in named[:MOST])),
    )  # fmt: skip


def label_quality(summary: Mapping[str, Any]) -> Figure | None:
    """Mean gold over the agreement of the labels with gold, a line an optimiser; None if there is no line."""
    found = summary["label_quality"]
    if not found:
        return None
    series = []
    control = summary["control"]
    if control:
        ends = [point["agreement"] for line in found for point in line["points"]]
        level = summary["arms"][control]["splits"][summary["splits"][0]]["gold"]["mean"]
        series.append(Series(0, control, "fit", [min(ends), max(ends)], [level, level]))
    for place, line in enumerate(found, 1):
        gold = [point["gold"] for point in line["points"]]
        notes = [
            f"{point['arm']}: labels {percent(point['agreement'])}, gold {number(point['gold']['mean'], 3)} "
            f"({span(point['gold'], 3)})"
            for point in line["points"]
        ]
        x, y = [point["agreement"] for point in line["points"]], [one["mean"] for one in gold]
        low, high = [one["low"] for one in gold], [one["high"] for one in gold]
        series.append(Series(place, line["optimiser"], "trend", x, y, low, high, notes))
    caption = f"A point is an arm; bars are {wording.level(summary)} intervals of its mean."
    if control:
        learned = summary["arms"][control]["feedback"]
        caption += f" The dotted line is the control {control}"
        caption += "." if learned else ", which learned from no labels."
    return Figure(
        "label_quality", "Gold reward against the quality of the labels", "labels that agree with gold, share",
        "mean gold reward", tuple(series), caption,
        names=(f"{control} (control)" if control else "", *(line["optimiser"] for line in found)),
    )  # fmt: skip
