"""A study's trials in words: a table of all, and how those ended that are not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft.study.rows import Row, State

STYLES = {State.done: "green", State.failed: "red", State.interrupted: "yellow", State.running: "cyan"}
LINES = 3  # of what a trial that failed printed last


def counted(rows: Sequence[Row]) -> str:
    """``3 done, 1 failed``."""
    found = Counter(row.state for row in rows)
    return ", ".join(f"{found[state]} {state.value}" for state in State if found[state]) or "no trials"


def table(rows: Sequence[Row], now: float) -> Table:
    """All trials, one a line.

    Args:
        rows: the trials'.
        now: seconds since 1970, for how long they have run.
    """
    found = Table("trial", "state", "where", "time", "starts", "error", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        where = f"{row.host}:{row.pid}" if row.state is State.running and row.host else ""
        end = row.ended if row.state is not State.running else now
        lasted = f"{max(0.0, end - row.started):.0f} s" if row.started and end else ""
        error = (row.error or "").strip().splitlines()[-1:] if row.state is not State.done else []
        state = Text(row.state.value, STYLES.get(row.state, ""))
        found.add_row(Text(row.name), state, where, lasted, str(row.attempts), Text(error[0] if error else ""))
    return found


def closing(console: Console, rows: Sequence[Row]) -> None:
    """Print how many ended how, and of each that is not done its last lines."""
    console.print(f"trials: {counted(rows)}", highlight=False)
    for row in rows:
        if row.state in (State.failed, State.interrupted):
            console.print(Text(f"{row.state.value} {row.name}", STYLES[row.state]), soft_wrap=True)
            for line in (row.error or "").strip().splitlines()[-LINES:]:
                console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)


def as_data(row: Row) -> dict[str, Any]:
    """A row as JSON has it; times in ISO 8601, UTC."""
    found: dict[str, Any] = {name: getattr(row, name) for name in Row.__dataclass_fields__}
    for name in ("started", "heartbeat", "ended"):
        moment = found[name]
        found[name] = None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return found | {
        "state": row.state.value,
        "overrides": list(row.overrides),
        "demand": row.demand and asdict(row.demand),
    }
