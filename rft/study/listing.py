"""Local trials in tables for people: many, one a line, and one with all that is there of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rft.store import Store
from rft.study.account import STYLES, as_data
from rft.study.local import History, LocalTrial
from rft.study.rows import State
from rft.study.sparkline import BLOCKS, extent, sparkline

SHOWN = ("gold", "proxy", "kl")
"""Metrics of the final test that a list of trials shows if none are asked for."""
CURVE = 24
"""Characters of a curve beside its last value."""


def number(value: float | None) -> str:
    """Four significant digits; empty for none."""
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def lasted(trial: LocalTrial, now: float) -> float | None:
    """Seconds from a trial's last start to its end, or to now; None if its ledger does not say."""
    end = now if trial.row.state is State.running else trial.row.ended
    return None if trial.row.started is None or end is None else max(0.0, end - trial.row.started)


def default_metrics(found: Sequence[Mapping[str, float]]) -> list[str]:
    """Which of SHOWN some trials have, split by split, ``test`` first."""
    names = {name for one in found for name in one}
    splits = sorted({name.split("/")[1] for name in names if name.count("/") == 2}, key=lambda split: split != "test")
    return [name for split in splits for metric in SHOWN if (name := f"eval/{split}/{metric}") in names]


def list_table(trials: Sequence[LocalTrial], found: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> Table:
    """Trials, one a line, with metrics of their final tests.

    Args:
        trials: in the order in which they are shown.
        found: the metrics of each.
        metrics: those that are shown.
    """
    several = len({trial.study for trial in trials}) > 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (*(["study"] if several else []), "trial", "state"):
        table.add_column(title, overflow="fold")  # cut off, two would look the same
    for title in ("time", *(name.removeprefix("eval/") for name in metrics)):
        table.add_column(Text(title), justify="right", overflow="fold")
    now = time.time()
    for trial, own in zip(trials, found, strict=True):
        seconds = lasted(trial, now)
        table.add_row(
            *([Text(trial.study)] if several else []),
            Text(trial.row.name),
            Text(trial.row.state.value, STYLES.get(trial.row.state, "")),
            "" if seconds is None else f"{seconds:.0f} s",
            *(number(own.get(name)) for name in metrics),
        )
    return table


def as_json(trial: LocalTrial, store: Store) -> dict[str, Any]:
    """A trial as JSON has it: its row, the metrics of its final test, the last row of its history, its folder."""
    history = trial.history()
    return as_data(trial.row) | {
        "study": trial.study,
        "trial": trial.row.name,
        "algorithm": trial.algorithm,
        "folder": str(trial.folder.absolute()),
        "metrics": trial.metrics(store),
        "last": history[-1] if history else {},
    }


def details(trial: LocalTrial, store: Store, levels: str = BLOCKS) -> RenderableType:
    """All that is there of a trial: how it stands, where its stages are, its final test, its curves.

    Args:
        trial: which.
        store: of the results.
        levels: characters of a curve, from low to high.

    Raises:
        UserError: if its history is damaged.
    """
    parts: list[RenderableType] = [_facts(trial)]
    if trial.record.get("stages"):
        parts += [Text("\nstages", "bold"), _stages(trial.record["stages"])]
    if metrics := trial.metrics(store):
        parts += [Text("\nfinal test", "bold"), _final(metrics)]
    if history := trial.history():
        whole = "" if trial.row.state is State.done else ", so far"
        parts += [Text(f"\ntraining: {len(history)} rows{whole}", "bold"), _curves(history, levels)]
    return Group(*parts)


def _facts(trial: LocalTrial) -> Table:
    row, record = trial.row, trial.record
    made = record.get("made") or {}
    seconds = lasted(trial, time.time())
    facts = {
        "trial": trial.name,
        "folder": str(trial.folder),
        "arm": row.arm,
        "algorithm": trial.algorithm,
        "seed": "" if row.seed is None else str(row.seed),
        "state": row.state.value,
        "error": (row.error or "").strip() if row.state is not State.done else "",
        "time": "" if seconds is None else f"{seconds:.0f} s",
        "starts": str(row.attempts or ""),
        "overrides": "\n".join(row.overrides),
        "made": "\n".join(f"{name}: {value}" for name, value in made.items() if isinstance(value, str | int | float)),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(value, STYLES.get(row.state, "") if name == "state" else ""))
    return table


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "key", "came out"):
        table.add_column(title, no_wrap=True)
    table.add_column("here", overflow="fold")
    for name, use in stages.items():
        here = f"computed in {use.get('seconds') or 0:.1f} s" if use.get("computed") else "found in the store"
        table.add_row(name, str(use.get("key"))[:16], str(use.get("digest"))[:16], here)
    return table


def _final(metrics: Mapping[str, float]) -> Table:
    """Metrics by split; what is of no split has a column of its own."""
    cells: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        _, _, rest = name.partition("/")
        split, _, metric = rest.rpartition("/")
        cells.setdefault(metric, {})[split] = value
    splits = sorted({split for own in cells.values() for split in own}, key=lambda split: (split != "test", split))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for split in splits:
        table.add_column(Text(split), justify="right")
    for metric, own in cells.items():
        table.add_row(Text(metric), *(number(own.get(split)) for split in splits))
    return table


def _curves(history: History, levels: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", overflow="fold")
    for title in ("first", "last", "lowest", "highest"):
        table.add_column(title, justify="right")
    table.add_column("curve", no_wrap=True)
    for name, values in _series(history):
        low, high = extent([values])
        ends = (values[0], values[-1], low, high)
        table.add_row(Text(name), *map(number, ends), Text(sparkline(values, CURVE, low, high, levels)))
    return table


def _series(history: History) -> Iterator[tuple[str, list[float]]]:
    for name in dict.fromkeys(name for row in history for name in row):
        yield name, [row[name] for row in history if name in row]
