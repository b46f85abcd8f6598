"""Which figures a study gets, as data: `rft.report.plots` draws them in the page, `rft.report.images` as files.

Dimension: `N` points of a series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any, Literal

from rft.evaluation.statistics import PROMPTS_ONLY
from rft.report import wording
from rft.report.selection import leading, left_out, ranked
from rft.report.wording import number, percent, span

FOREST_ARMS = 40
SCATTER_ARMS = 24
FIT_POINTS = 40

Kind = Literal["interval", "path", "final", "line", "fit", "steps", "trend"]
Value = float | None


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one arm, or of one of the figure's own `names`; ``None`` in `x` and `y` [N] ends a piece of a line.

    `low` and `high` [N] bound the x of an interval and the y of a trend, `notes` [N] are what a point says when it is
    pointed at, and `axes` has further x [N] by axis, of a curve that can be drawn over any of them.
    """

    arm: int
    name: str
    kind: Kind
    x: Sequence[Value]
    y: Sequence[Value]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    notes: Sequence[str] = ()
    axes: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    hollow: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure; `rows` are the names of the places 0, 1, … on a vertical axis of names, topmost first.

    With `names` it is not about arms: the number of a series is its place among them. One without a name is in no
    legend.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str
    rows: tuple[str, ...] = ()
    zero: bool = False
    names: tuple[str, ...] = ()


def numbering(summary: Mapping[str, Any]) -> dict[str, int]:
    """Arm → its number, which decides colour, mark and dash everywhere."""
    return {arm: index for index, arm in enumerate(summary["arms"])}


def final_test(summary: Mapping[str, Any]) -> list[Figure]:
    """The figures of the final test that the study has numbers for."""
    if not summary["splits"]:
        return []
    drawn = (forest(summary), frontier(summary), proxy_against_gold(summary))
    return [figure for figure in drawn if figure is not None and figure.series]


def forest(summary: Mapping[str, Any]) -> Figure:
    """Differences to the control with their intervals, highest first; the gold reward itself without a control."""
    control = summary["control"] if len(summary["arms"]) > 1 else None
    measure = "difference" if control else "gold"
    split = summary["splits"][0]
    kept = leading(summary, FOREST_ARMS)
    order = [arm for arm in ranked(summary) if arm in kept and arm != control]
    series = [
        whisker(summary, arm, row, measure, name, hollow)
        for name, hollow, _ in _two_splits(summary)
        for row, arm in enumerate(order)
    ]
    filled = ", ".join(f"{kind}: {wording.title(name)}" for name, _, kind in _two_splits(summary))
    caption = [f"Bars are {wording.level(summary)} intervals.", left_out(summary, FOREST_ARMS)]
    if control:
        caption.insert(1, _verdict_caption(summary, split))
    return Figure(
        name="forest",
        title=f"Difference to {control}" if control else "Gold reward",
        x_label=f"{f'gold reward minus {control}' if control else 'mean gold reward'} ({filled})",
        y_label="",
        series=tuple(series),
        caption=" ".join(filter(None, caption)),
        rows=tuple(order),
        zero=control is not None,
    )


def _two_splits(summary: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    return list(zip(summary["splits"][:2], (False, True), ("filled", "hollow"), strict=False))


def whisker(summary: Mapping[str, Any], arm: str, row: int, measure: str, split: str, hollow: bool) -> Series:
    """One interval of an arm on its row; the second split's is a little lower."""
    interval = summary["arms"][arm]["splits"][split][measure]
    signed = measure == "difference"
    note = (
        f"{arm}, {wording.title(split)}: {number(interval['mean'], 3, sign=signed)} ({span(interval, 3, sign=signed)})"
    )
    return Series(
        arm=numbering(summary)[arm],
        name=arm,
        kind="interval",
        x=[interval["mean"]],
        y=[row + (0.16 if hollow else -0.1 if len(summary["splits"]) > 1 else 0.0)],
        low=[interval["low"]],
        high=[interval["high"]],
        notes=[f"{note}: {interval['verdict']}" if "verdict" in interval else note],
        hollow=hollow,
    )


def _verdict_caption(summary: Mapping[str, Any], split: str) -> str:
    differences = [record["splits"][split]["difference"] for record in summary["arms"].values()]
    single = [difference["covers"] == PROMPTS_ONLY for difference in differences if difference]
    remark = "Arms with one seed have bars over prompts only, which are no verdict wherever they end."
    if single and all(single):
        return remark
    if summary["statistics"].get("correction"):
        return (
            "A bar across the line at 0 cannot tell; one beside it is a verdict if it holds after Holm's "
            "correction, as the table says." + (f" {remark}" if any(single) else "")
        )
    return "A bar that does not touch the line at 0 is a verdict."


def frontier(summary: Mapping[str, Any]) -> Figure | None:
    """Gold reward over KL: every checkpoint that was evaluated, the final policies, and the fitted law."""
    series = [
        *_trajectories(summary, "kl", "KL"),
        *(fit for arm in leading(summary, SCATTER_ARMS) if (fit := fitted(summary, arm))),
    ]
    checkpoints = any(one.kind == "path" for one in series)
    parts = ["Up is better, left is closer to the start policy. Large filled marks are final policies, one a seed"]
    parts.append("; small hollow ones are checkpoints on the way there." if checkpoints else ".")
    parts.append(_also(gains_caption(summary)))
    if any(one.kind == "fit" for one in series):
        parts.append(" Dotted lines are the fitted laws whose coefficients are in the table below.")
    parts.append(_also(left_out(summary, SCATTER_ARMS)))
    return Figure(
        name="frontier",
        title="How much reward for how much movement",
        x_label="KL from the start policy, nats",
        y_label="gold reward",
        series=tuple(series),
        caption="".join(parts),
    )


def proxy_against_gold(summary: Mapping[str, Any]) -> Figure | None:
    """Gold reward over the reward that was optimised; None if the study has no reward model."""
    split = summary["splits"][0]
    if all(record["splits"][split]["proxy"] is None for record in summary["arms"].values()):
        return None
    caption = "To the right without going up is over-optimisation: the reward model is pleased, the gold reward is not."
    if not summary["stages"].get("reward_model", {"same": True})["same"]:
        caption += " Not all arms share a reward model: read left and right only between arms that do."
    caption += _also(gains_caption(summary))
    return Figure(
        name="proxy_gold",
        title="What was optimised against what counts",
        x_label="proxy reward, the reward model's score",
        y_label="gold reward",
        series=tuple(_trajectories(summary, "proxy", "proxy")),
        caption=caption + _also(left_out(summary, SCATTER_ARMS)),
    )


def _also(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def points(summary: Mapping[str, Any], arm: str) -> list[dict[str, Any]]:
    """The arm's checkpoints and final policies; of a study without checkpoints its final policies."""
    found: list[dict[str, Any]] = list((summary.get("frontier") or {}).get(arm) or ())
    if found:
        return found
    seeds = summary["arms"][arm]["splits"][summary["splits"][0]]["per_seed"]
    return [{**seed, "step": None, "fraction": 1.0, "final": True} for seed in seeds]


def gold_of(summary: Mapping[str, Any], point: Mapping[str, Any]) -> float | None:
    """Where a policy's gold reward stands in a figure: at the control's over all questions plus the policy's gain.

    A point of training was asked some of the questions; where its gain on these is not known, it is its own mean.
    """
    start, gain = start_gold(summary), point.get("gain")
    own: float | None = point["gold"]
    return own if start is None or gain is None else start + gain


def gains_caption(summary: Mapping[str, Any]) -> str:
    """The sentence on where checkpoints stand; empty if there are none, or their gains are not known."""
    found = [point for arm in summary["arms"] for point in points(summary, arm) if not point["final"]]
    if summary["control"] is None or not any(point.get("gain") is not None for point in found):
        return ""
    return (
        f"A checkpoint answered some of the questions only: its gold reward is that of {summary['control']} over all "
        f"of them plus its gain over {summary['control']} on those."
    )


def _trajectories(summary: Mapping[str, Any], across: str, label: str) -> list[Series]:
    """Of every arm the way of each seed through its checkpoints, and the final policies."""
    numbers = numbering(summary)
    series = []
    for arm in leading(summary, SCATTER_ARMS):
        known = [
            point | {"gold": gold}
            for point in points(summary, arm)
            if point[across] is not None and (gold := gold_of(summary, point)) is not None
        ]
        for kind, kept in (("path", known), ("final", [point for point in known if point["final"]])):
            if kind == "path" and len(kept) == sum(point["final"] for point in kept):
                continue
            x, y, notes = _pieces(arm, kept, across, label, lines=kind == "path")
            series.append(Series(numbers[arm], arm, kind, x, y, notes=notes, hollow=kind == "path"))  # type: ignore[arg-type]
    return series


def _pieces(
    arm: str, kept: Sequence[Mapping[str, Any]], across: str, label: str, *, lines: bool
) -> tuple[list[Value], list[Value], list[str]]:
    """x [N], y [N] and notes [N]; a gap between two seeds, so that no line joins them."""
    x: list[Value] = []
    y: list[Value] = []
    notes: list[str] = []
    seeds = sorted({point["seed"] for point in kept})
    for seed in seeds:
        own = sorted((point for point in kept if point["seed"] == seed), key=lambda point: point["fraction"])
        if lines and x:
            x, y, notes = [*x, None], [*y, None], [*notes, ""]
        x += [point[across] for point in own]
        y += [point["gold"] for point in own]
        notes += [
            f"{arm}, seed {seed}, {'final' if point['final'] else percent(point['fraction']) + ' of training'}: "
            f"gold {number(point['gold'], 3)}, {label} {number(point[across])}"
            for point in own
        ]
    return x, y, notes


def fitted(summary: Mapping[str, Any], arm: str) -> Series | None:
    """The fitted law over the KL that the arm reached: start + d (α − β log d) or start + d (α − β d), d = √KL."""
    law = (summary.get("overoptimisation") or {}).get(arm)
    reached = [point["kl"] for point in points(summary, arm) if point["kl"] is not None and point["kl"] > 0]
    start = start_gold(summary)
    if not law or not reached or start is None:
        return None
    alpha, beta = law["alpha"]["mean"], law["beta"]["mean"]
    far = sqrt(max(reached))
    distances = [far * (i + 1) / FIT_POINTS for i in range(FIT_POINTS)]
    gains = [d * (alpha - beta * (log(d) if law["law"] == "rl" else d)) for d in distances]
    return Series(
        arm=numbering(summary)[arm],
        name=arm,
        kind="fit",
        x=[round(d * d, 5) for d in distances],
        y=[round(start + gain, 5) for gain in gains],
        notes=[f"{arm}, fitted law: α {number(alpha, 3)}, β {number(beta, 3)}"] * FIT_POINTS,
    )


def start_gold(summary: Mapping[str, Any]) -> float | None:
    """The gold reward that a law's gain is measured from: the control's."""
    control = summary["control"]
    return summary["arms"][control]["splits"][summary["splits"][0]]["gold"]["mean"] if control else None


def ranking(summary: Mapping[str, Any]) -> Figure | None:
    """Bradley–Terry strengths with their intervals, best first."""
    split = summary["splits"][0] if summary["splits"] else None
    found = (summary.get("ranking") or {}).get(split)
    if not found:
        return None
    numbers = numbering(summary)
    kept = found[:FOREST_ARMS]
    series = [
        Series(
            numbers[entry["arm"]], entry["arm"], "interval", [entry["strength"]], [row],
            low=[entry["low"]], high=[entry["high"]],
            notes=[f"{entry['arm']}: {number(entry['strength'], sign=True)} ({span(entry, sign=True)})"],
        )
        for row, entry in enumerate(kept)
    ]  # fmt: skip
    caption = (
        "Log-strength of Bradley and Terry from all wins, prompt by prompt; 0 is the mean, and an arm that is ahead "
        "of another by 1 wins 73 % of their prompts."
    )
    if any(entry["covers"] == PROMPTS_ONLY for entry in found):
        single = [entry["arm"] for entry in found if len(summary["arms"][entry["arm"]]["seeds"]) == 1]
        caption += f" Bars cover prompts only: every strength depends on {wording.shortlist(single)}, with one seed."
    if len(found) > len(kept):
        caption += f" Shown are the {len(kept)} strongest of {len(found)} arms."
    return Figure(
        "ranking", "Ranking over all pairs", "log-strength", "", tuple(series), caption,
        rows=tuple(entry["arm"] for entry in kept), zero=True,
    )  # fmt: skip
