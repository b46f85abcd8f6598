"""The learning curves and the tuning curve as figures, over every axis that the study has.

Dimension: `N` points of a series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft.report import wording
from rft.report.figures import Figure, Series, Value, gains_caption, gold_of, numbering, points
from rft.report.resources import AXES, name
from rft.report.selection import leading, left_out
from rft.report.wording import number

CURVE_ARMS = 12
SEED_ARMS = 8
"""Most arms whose single seeds are drawn; with more, they hide the means."""
MAIN_CURVES = {
    "rollout/reward": ("Reward while training", "proxy reward of the rollouts"),
    "rollout/kl": ("KL while training", "KL from the start policy, nats"),
    "train/accuracy": ("Labelled pairs told right while training", "share of pairs"),
}
"""Metric → title and axis of the curves shown first; an arm has the curves that its kind of training logs."""
DIGITS = 6


def curves(summary: Mapping[str, Any]) -> tuple[list[Figure], list[Figure]]:
    """The figures shown first, and those of all other metrics that the arms logged, what never changed last."""
    axis = preferred_axis(summary)
    gold = checkpoint_gold(summary, axis)
    main = [
        metric(summary, which, title, label, axis)
        for which, (title, label) in MAIN_CURVES.items()
        if which in summary["curves"]
    ]
    more = [metric(summary, which, which, which, axis) for which in summary["curves"] if which not in MAIN_CURVES]
    shown = [*([gold] if gold else []), *(figure for figure in main if figure.series)]
    return shown, sorted((figure for figure in more if figure.series), key=_is_flat)


def _is_flat(figure: Figure) -> bool:
    return len({y for series in figure.series for y in series.y}) == 1


def axes(summary: Mapping[str, Any]) -> list[str]:
    """The axes that some arm has values on, in the order in which they are offered; always the optimiser steps."""
    known = {axis for seeds in (summary["cost"].get("axes") or {}).values() for seed in seeds for axis in seed}
    return ["steps", *(axis for axis in AXES if axis in known and axis != "steps")]


def preferred_axis(summary: Mapping[str, Any]) -> str:
    """The resource that the arms' budget limits, so that curves end where the budget does; else optimiser steps.

    Only what is known of every arm that has any axis can be it, and what each of them used while it trained: of what
    an arm did not use, its curve would be an upright line.
    """
    budget = (summary["cost"].get("budget") or {}).get("arms") or {}
    limits = {resource for arm in budget.values() for resource in arm.get("limit") or {}}
    seeds = [seed for arm in (summary["cost"].get("axes") or {}).values() for seed in arm]
    return next(
        (axis for axis in axes(summary) if axis in limits and all(_grows(seed, axis) for seed in seeds)), "steps"
    )


def _grows(seed: Mapping[str, Any], axis: str) -> bool:
    """Whether a resource is known of a seed and was used while it trained."""
    return axis in seed and min(seed[axis]) < max(seed[axis])


def metric(summary: Mapping[str, Any], which: str, title: str, label: str, axis: str) -> Figure:
    """The curves of one metric: the mean over seeds of every arm, and its seeds if there is room for them."""
    logged = summary["curves"][which]
    arms = [arm for arm in leading(summary, CURVE_ARMS) if arm in logged]
    series = []
    for arm in arms:
        if len(arms) <= SEED_ARMS:
            series += [
                _curve(summary, arm, seed["steps"], seed["values"], axis, [seed["seed"]])
                for seed in logged[arm]["seeds"]
            ]
        mean, seeds = logged[arm]["mean"], [seed["seed"] for seed in logged[arm]["seeds"]]
        series.append(_curve(summary, arm, mean["steps"], mean["values"], axis, seeds, mean=True))
    return Figure(which, title, name(axis), label, tuple(series), _who(summary, which))


def _who(summary: Mapping[str, Any], which: str) -> str:
    without = [arm for arm in summary["arms"] if arm not in summary["curves"][which]]
    told = f"Not logged by {wording.listing(without)}." if 0 < len(without) <= CURVE_ARMS else ""
    return " ".join(filter(None, (told, _charged(summary), left_out(summary, CURVE_ARMS))))


def _charged(summary: Mapping[str, Any]) -> str:
    """The sentence that says whose curves begin with what the shared stages used; empty if none do."""
    budget = (summary["cost"].get("budget") or {}).get("arms") or {}
    drawn = [arm for arm, seeds in (summary["cost"].get("axes") or {}).items() if seeds and arm in budget]
    full = [arm for arm in drawn if budget[arm].get("charge") == "full"]
    if not full:
        return ""
    whose = "curves begin" if full == drawn else f"the curves of {wording.shortlist(full)} begin"
    return f"Over a resource {whose} at what the shared stages used, since their budget counts it."


def _curve(
    summary: Mapping[str, Any],
    arm: str,
    steps: Sequence[float],
    values: Sequence[float],
    axis: str,
    seeds: Sequence[int],
    *,
    mean: bool = False,
) -> Series:
    grid = {known: x for known in axes(summary) if (x := along(summary, arm, seeds, steps, known)) is not None}
    whose = f"mean of {len(seeds)} seeds" if mean else f"seed {seeds[0]}"
    return Series(
        arm=numbering(summary)[arm],
        name=f"{arm}, {whose}",
        kind="line",
        x=grid.get(axis, ()),
        y=list(values),
        axes=grid,
        faint=not mean,
    )


def along(
    summary: Mapping[str, Any], arm: str, seeds: Sequence[int], steps: Sequence[float], axis: str
) -> list[Value] | None:
    """What `seeds` of `arm` had used of a resource, in the mean, after each of `steps` [N]; None if that is not known.

    Between two steps that are known it is in proportion.
    """
    if axis == "steps":
        return list(steps)
    known = {seed["seed"]: seed for seed in (summary["cost"].get("axes") or {}).get(arm) or ()}
    if not seeds or any(axis not in known.get(seed, {}) for seed in seeds):
        return None
    used = [np.interp(steps, known[seed]["steps"], known[seed][axis]) for seed in seeds]
    return [float(f"{value:.{DIGITS}g}") for value in np.mean(used, axis=0)]


def checkpoint_gold(summary: Mapping[str, Any], axis: str) -> Figure | None:
    """The gold reward of the checkpoints over what training had used; None without checkpoints."""
    if not summary["splits"]:
        return None
    series = []
    arms = leading(summary, CURVE_ARMS)
    for arm in arms:
        found = [
            point | {"gold": gold}
            for point in points(summary, arm)
            if point["step"] is not None and (gold := gold_of(summary, point)) is not None
        ]
        seeds = sorted({p["seed"] for p in found})
        own = {seed: _way([p for p in found if p["seed"] == seed]) for seed in seeds}
        if not any(len(way) > 1 for way in own.values()):
            continue
        if len(arms) <= SEED_ARMS:
            series += [
                _curve(summary, arm, [p["step"] for p in way], [p["gold"] for p in way], axis, [seed])
                for seed, way in own.items()
            ]
        places = _places(list(own.values()))
        steps = [float(np.mean([p["step"] for p in place])) for place in places]
        means = [float(np.mean([p["gold"] for p in place])) for place in places]
        series.append(_curve(summary, arm, steps, means, axis, seeds, mean=True))
    if not series:
        return None
    caption = "The hidden gold reward of the checkpoints, which training never saw."
    caption = " ".join(
        filter(None, (caption, gains_caption(summary), _charged(summary), left_out(summary, CURVE_ARMS)))
    )
    return Figure("gold", "Gold reward while training", name(axis), "gold reward", tuple(series), caption)


Point = Mapping[str, Any]


def _way(own: Sequence[Point]) -> list[Point]:
    """A seed's checkpoints in order, the final policy last and in place of one at the same step."""
    end = [point for point in own if point["final"]]
    last = {point["step"] for point in end}
    on_the_way = [point for point in own if not point["final"] and point["step"] not in last]
    return [*sorted(on_the_way, key=lambda point: point["checkpoint"]), *end]


def _places(ways: Sequence[Sequence[Point]]) -> list[list[Point]]:
    """The points that all seeds have, by their number: seeds that a limit ends are at other fractions of training."""
    by_number = [{point["checkpoint"]: point for point in way} for way in ways]
    shared = set.intersection(*map(set, by_number))
    return [[own[number] for own in by_number] for number in by_number[0] if number in shared]


def tuning(summary: Mapping[str, Any]) -> Figure | None:
    """The best value so far over the number of tuning trials; None if the study did not tune."""
    found = summary.get("tuning")
    if not found:
        return None
    numbers = numbering(summary)
    series = [
        Series(
            arm=numbers.get(arm, len(numbers) + place),
            name=arm,
            kind="steps",
            x=list(range(1, len(record["best_so_far"]) + 1)),
            y=list(record["best_so_far"]),
            notes=[f"{arm}, best of {i + 1}: {number(v, 3)}" for i, v in enumerate(record["best_so_far"])],
        )
        for place, (arm, record) in enumerate(found["arms"].items())
    ]
    judged = f"judged by {found['objective'] or 'another objective in each study'} on "
    judged += f"the {found['split']} split" if found["split"] else "another split in each study"
    equal = "Every algorithm had the same budget of trials and was"
    unequal = "The studies gave their algorithms other budgets of trials; each was"
    caption = f"{equal if found['budget'] else unequal} {judged}; the winners then ran on fresh seeds."
    label = f"best {found['objective'] or 'value'} so far"
    return Figure("tuning", "Best found so far", "tuning trials", label, tuple(series), caption)
