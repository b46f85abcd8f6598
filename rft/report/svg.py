"""The report's figures as inline SVG: colours come from the page's style sheet, so both themes fit.

Every mark carries its numbers in a ``<title>``, shown on hover and read by screen readers. An arm is told by
its colour (Okabe–Ito, safe for the colour-blind) and by the shape of its mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rft.report.wording import level, number, span

WIDTH = 460
LABEL_WIDTH = 92
SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",  # disc
    "M-4.6,-4.6H4.6V4.6H-4.6Z",  # square
    "M0,-6L6,0L0,6L-6,0Z",  # diamond
    "M0,-5.8L5.8,4.6H-5.8Z",  # triangle up
    "M0,5.8L5.8,-4.6H-5.8Z",  # triangle down
    "M-1.9,-5.5H1.9V-1.9H5.5V1.9H1.9V5.5H-1.9V1.9H-5.5V-1.9H-1.9Z",  # cross
)
COLOURS = 7
LABELLED = 6
"""Most arms whose marks are labelled in a scatter; with more, labels hide marks, and legend and hover tell them."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels, with round ticks inside the data's range."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    @property
    def step(self) -> float:
        """Distance of the ticks: 1, 2 or 5 times a power of ten, for 3 to 7 of them."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step inside the range."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [i * self.step for i in range(first, last + 1)]

    def label(self, value: float) -> str:
        """A tick's value with just the decimals that the step needs."""
        return number(value, max(0, -math.floor(math.log10(self.step) + 1e-9)))


def scale(values: Sequence[float], start: float, end: float, *, pad: float = 0.07) -> Scale:
    """A scale over `values` with a margin; equal values get a range around them."""
    low, high = min(values), max(values)
    margin = (high - low) * pad or max(abs(high) * 0.1, 0.05)
    return Scale(low - margin, high + margin, start, end)


def css_class(index: int) -> str:
    """The style-sheet class of the arm with this number."""
    return f"arm-{index % COLOURS}"


def mark(index: int, x: float = 0.0, y: float = 0.0, *, size: float = 1.0, hollow: bool = False) -> Markup:
    """The mark of an arm, centred on (x, y)."""
    return Markup('<path class="mark {}{}" transform="translate({},{}) scale({})" d="{}"/>').format(
        css_class(index), " hollow" if hollow else "", x, y, size, SHAPES[index % len(SHAPES)]
    )


def key(index: int) -> Markup:
    """The arm's mark alone, for legends and tables."""
    return Markup('<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>').format(mark(index))


def _figure(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(parts)
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _titled(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup("<g><title>{}</title>{}</g>").format(title, Markup("").join(parts))


def _x_axis(axis: Scale, top: float, bottom: float, label: str) -> list[Markup]:
    parts = [_line(axis(tick), top, axis(tick), bottom, "grid") for tick in axis.ticks]
    parts += [_text(axis(tick), bottom + 16, axis.label(tick), "tick", "middle") for tick in axis.ticks]
    return [*parts, _text((axis.start + axis.end) / 2, bottom + 36, label, "axis", "middle")]


def _y_axis(axis: Scale, left: float, right: float, label: str) -> list[Markup]:
    parts = [_line(left, axis(tick), right, axis(tick), "grid") for tick in axis.ticks]
    parts += [_text(left - 7, axis(tick) + 4, axis.label(tick), "tick", "end") for tick in axis.ticks]
    return [*parts, _text(left - 34, axis.end - 10, label, "axis")]


def whiskers(summary: Mapping[str, Any], measure: str, label: str) -> Markup:
    """Dot and whisker of `measure` (``gold`` or ``difference``) per arm; test filled, other splits hollow."""
    arms = list(summary["arms"])
    splits = summary["splits"][:2]
    shown = [
        (row, index, order, split, summary["arms"][arm]["splits"][split])
        for row, (index, arm) in enumerate(
            (i, a) for i, a in enumerate(arms) if measure != "difference" or a != summary["control"]
        )
        for order, split in enumerate(splits)
    ]
    ends = [edge for *_, record in shown for edge in (record[measure]["low"], record[measure]["high"])]
    if measure == "difference":
        ends.append(0.0)
    axis = scale(ends, LABEL_WIDTH, WIDTH - 14)
    height = 44 * (max(row for row, *_ in shown) + 1)
    parts = _x_axis(axis, 6, height + 8, label)
    if measure == "difference":
        parts.append(_line(axis(0.0), 6, axis(0.0), height + 8, "zero"))
    for row, index, order, split, record in shown:
        y = 26 + 44 * row + (order - (len(splits) - 1) / 2) * 16
        interval = record[measure]
        low, high = axis(interval["low"]), axis(interval["high"])
        words = f"{arms[index]}, {split}: {number(interval['mean'], 3)} ({level(summary)} interval {span(interval, 3)})"
        whisker = [_line(low, y, high, y, f"whisker {css_class(index)}")]
        whisker += [_line(x, y - 4, x, y + 4, f"whisker {css_class(index)}") for x in (low, high)]
        parts.append(_titled(words, [*whisker, mark(index, axis(interval["mean"]), y, hollow=order > 0)]))
        if order == 0:
            parts.append(_text(0, 26 + 44 * row + 5, _short(arms[index]), "label"))
    return _figure(height + 50, f"{label} per arm with intervals", parts)


def scatter(summary: Mapping[str, Any], split: str, x_name: str, x_label: str) -> Markup | None:
    """Gold reward over `x_name`, a small mark per seed and a large one per arm; None without such numbers."""
    points = [
        (index, arm, seed["seed"], seed[x_name], seed["gold"])
        for index, (arm, record) in enumerate(summary["arms"].items())
        for seed in record["splits"][split]["per_seed"]
    ]
    if any(x is None for _, _, _, x, _ in points):
        return None
    height = 300
    x_axis = scale([x for *_, x, _ in points], 48, WIDTH - 16, pad=0.09)
    y_axis = scale([y for *_, y in points], height - 44, 30, pad=0.09)
    parts = _x_axis(x_axis, y_axis.end, y_axis.start, x_label)
    parts += _y_axis(y_axis, x_axis.start, x_axis.end, "mean gold reward")
    for index, arm, seed, x, y in points:
        words = f"{arm}, seed {seed}: gold {number(y, 3)}, {x_label} {number(x, 2)}"
        parts.append(_titled(words, [mark(index, x_axis(x), y_axis(y), size=0.8, hollow=True)]))
    parts += _arm_means(summary, split, x_name, x_axis, y_axis)
    return _figure(height, f"mean gold reward over {x_label}", parts)


def lines(summary: Mapping[str, Any], metric: str, label: str) -> Markup:
    """`metric` over the training step: a thick line for each arm's mean over seeds, thin ones for the seeds."""
    found = summary["curves"][metric]
    arms = [(index, arm, found[arm]) for index, arm in enumerate(summary["arms"]) if arm in found]
    all_curves = [curve for _, _, own in arms for curve in (own["mean"], *own["seeds"])]
    height = 300
    x_axis = scale([step for curve in all_curves for step in curve["steps"]], 48, WIDTH - 16, pad=0.02)
    y_axis = scale([value for curve in all_curves for value in curve["values"]], height - 44, 30)
    parts = _x_axis(x_axis, y_axis.end, y_axis.start, "training step")
    parts += _y_axis(y_axis, x_axis.start, x_axis.end, label)
    for index, arm, own in arms:
        for seed in own["seeds"]:
            parts.append(_titled(f"{arm}, seed {seed['seed']}", [_curve(index, seed, x_axis, y_axis, "curve seed")]))
    for index, arm, own in arms:
        if not own["mean"]["steps"]:
            continue
        x, y = own["mean"]["steps"][-1], own["mean"]["values"][-1]
        words = f"{arm}, mean of {len(own['seeds'])} seeds: {number(y, 3)} at step {x}"
        last = mark(index, x_axis(x), y_axis(y))
        parts.append(_titled(words, [_curve(index, own["mean"], x_axis, y_axis, "curve"), last]))
    return _figure(height, f"{label} over the training step", parts)


def _curve(index: int, curve: Mapping[str, Any], x_axis: Scale, y_axis: Scale, kind: str) -> Markup:
    points = " ".join(
        f"{x_axis(step):g},{y_axis(value):g}" for step, value in zip(curve["steps"], curve["values"], strict=True)
    )
    return Markup('<polyline class="{} {}" points="{}"/>').format(kind, css_class(index), points)


def _arm_means(summary: Mapping[str, Any], split: str, x_name: str, x_axis: Scale, y_axis: Scale) -> list[Markup]:
    """The large marks, labelled beside as long as they are few; a label that would lie on another moves down."""
    parts, taken = [], list[tuple[float, float]]()
    for index, (arm, record) in enumerate(summary["arms"].items()):
        numbers = record["splits"][split]
        x, y = x_axis(numbers[x_name]), y_axis(numbers["gold"]["mean"])
        words = f"{arm}, mean of {len(record['seeds'])} seeds: gold {number(numbers['gold']['mean'], 3)}"
        parts.append(_titled(words, [mark(index, x, y, size=1.5)]))
        if len(summary["arms"]) > LABELLED:
            continue
        left = x > (x_axis.start + x_axis.end) / 2
        label_y = y - 10
        while any(abs(label_y - other_y) < 14 and abs(x - other_x) < 70 for other_x, other_y in taken):
            label_y += 14
        taken.append((x, label_y))
        parts.append(_text(x - 11 if left else x + 11, label_y, _short(arm), "label halo", "end" if left else "start"))
    return parts


def _short(arm: str, limit: int = 14) -> str:
    return arm if len(arm) <= limit else arm[: limit - 1] + "…"
