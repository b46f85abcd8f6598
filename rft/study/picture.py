"""A watched study as a picture that fits a terminal: a line a trial, with its curves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rft.study.account import STYLES, counted, ways_on
from rft.study.listing import default_metrics, number
from rft.study.rows import Row, State
from rft.study.sparkline import extent, sparkline
from rft.study.watched import Look, Seen, Watched

MAIN = {"rollout/reward": "reward", "rollout/kl": "KL", "train/accuracy": "accuracy"}
"""Curves that are shown if none are asked for; an arm has those that its kind of training logs."""
FIRST = (State.running, State.failed, State.interrupted, State.done, State.queued, State.cancelled)
"""Which trials are shown if not all fit."""
NARROWEST, WIDEST = 6, 32
"""Characters of a curve."""
VALUE = 9
"""Characters of the number beside it, with the gap before it."""
GAP = 2
"""Between columns."""
AROUND = 9
"""Lines beside those of the trials: titles, what is left out, what is to be done."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What there is to draw on."""

    width: int
    height: int | None
    """Lines; None: as many as it takes."""
    levels: str
    """Characters of a curve, from low to high."""
    metrics: Sequence[str] = ()
    """Curves that are asked for; those of MAIN if there are none."""


def picture(watched: Watched, look: Look, frame: Frame) -> RenderableType:
    """A study at one moment."""
    shown = _fitting([*look.others, *look.trials], None if frame.height is None else frame.height - AROUND)
    seen = [watched.see(row) for row in shown]
    parts: list[RenderableType] = [Text(f"{look.study}: {counted(look.trials)}", "bold")]
    parts += [_table(seen, frame)] if seen else []
    if rest := [row for row in look.trials if row not in shown]:
        parts.append(Text(f"and {len(rest)} more: {counted(rest)}"))
    parts += [Text(f"warning: {note}", "yellow") for note in look.notes]
    if not look.at_work:
        ways = ways_on(look.study, look.trials)
        parts.append(Text("nobody is at work" if ways else "it has ended"))
        parts += [Text(way) for way in ways]
    return Group(*parts)


def _fitting(rows: Sequence[Row], most: int | None) -> list[Row]:
    """As many as fit, those that matter first, in the order of the plan."""
    if most is None or len(rows) <= most:
        return list(rows)
    chosen = sorted(range(len(rows)), key=lambda place: FIRST.index(rows[place].state))[: max(1, most)]
    return [rows[place] for place in sorted(chosen)]


def labels(rows: Sequence[Row]) -> list[str]:
    """What rows are called: ``ARM-sSEED`` if no other is called so, else their names."""
    short = [f"{row.arm}-s{row.seed}" if row.is_trial and row.seed is not None else row.name for row in rows]
    times = Counter(short)
    return [one if times[one] == 1 else row.name for one, row in zip(short, rows, strict=True)]


def _cut(text: str, width: int) -> str:
    """A text whose middle is left out if it is too long: names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def doing(seen: Seen, now: float) -> str:
    """What a running trial is at and how far, or how long another one ran."""
    row, bar = seen.row, seen.progress
    if row.state is not State.running:
        return f"{max(0.0, row.ended - row.started):.0f} s" if row.started and row.ended else ""
    lasted = f"{max(0.0, now - row.started):.0f} s" if row.started else ""
    if not bar:
        return f"step {seen.history[-1]['step']:.0f}, {lasted}" if seen.history else lasted
    what = str(bar.get("description", ""))
    what = "training" if what.endswith(f" seed {row.seed}") else what
    done, total = bar.get("done", 0), bar.get("total")
    return f"{what} {done}/{total}, {lasted}" if total else f"{what} {done}, {lasted}"


def _values(seen: Seen, metric: str) -> list[float]:
    return [row[metric] for row in seen.history if isinstance(row.get(metric), int | float)]


def _table(seen: Sequence[Seen], frame: Frame) -> Table:
    curves = {metric: [_values(one, metric) for one in seen] for metric in frame.metrics or MAIN}
    curves = {metric: own for metric, own in curves.items() if frame.metrics or any(own)}
    final = next(iter(default_metrics([one.metrics for one in seen])), None)
    now = time.time()
    does = [doing(one, now) for one in seen]
    names = labels([one.row for one in seen])
    # What stays as it is: state, what is done, the final test.
    fixed = 11 + GAP + max(map(len, does)) + GAP + (VALUE + GAP if final else 0)
    longest = min(max(map(len, names)), max(16, frame.width // 3))
    room = frame.width - fixed - longest - GAP
    while len(curves) > 1 and room // len(curves) < NARROWEST + VALUE + GAP:
        curves.popitem()
    long = min(WIDEST, max(NARROWEST, room // len(curves) - VALUE - GAP)) if curves else 0
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    table.add_column("trial", no_wrap=True, max_width=longest)
    table.add_column("state", no_wrap=True)
    table.add_column("", no_wrap=True)
    scales = {metric: extent(own) for metric, own in curves.items()}
    for metric in curves:
        table.add_column(_title(metric, scales[metric], frame), no_wrap=True, width=long + VALUE)
    if final:
        table.add_column(Text(final.removeprefix("eval/")), justify="right", no_wrap=True)
    for place, one in enumerate(seen):
        table.add_row(
            Text(_cut(names[place], longest)),
            Text(one.row.state.value, STYLES.get(one.row.state, "")),
            Text(does[place]),
            *(_curve(own[place], long, scales[metric], frame.levels) for metric, own in curves.items()),
            *([number(one.metrics.get(final))] if final else []),
        )
    return table


def _title(metric: str, scale: tuple[float, float], frame: Frame) -> Text:
    """A column's, with the numbers that its lowest and highest level stand for: all its curves have one scale."""
    name = metric if frame.metrics else MAIN[metric]
    return Text(f"{name}\n{frame.levels[0]}{scale[0]:.3g} {frame.levels[-1]}{scale[1]:.3g}")


def _curve(values: Sequence[float], width: int, scale: tuple[float, float], levels: str) -> Text:
    if not values:
        return Text("")
    return Text(f"{sparkline(values, width, *scale, levels):<{width}} {number(values[-1])}")
