"""A study's trials in words: a table of all, and how those ended that are not done."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft.study.finished import last_words
from rft.study.ledger import Ledger
from rft.study.ledger_file import Unusable
from rft.study.rows import Row, State

STYLES = {State.done: "green", State.failed: "red", State.interrupted: "yellow", State.running: "cyan"}
LINES = 3  # of what a trial that failed printed last
MOST = 40  # rows of a table that closes a sweep


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
    found = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("trial", "state", "where", "time", "starts", "error"):
        found.add_column(title, no_wrap=title == "trial", overflow="fold")  # cut off, two would look the same
    for row in rows:
        where = f"{row.host}:{row.pid or 'starting'}" if row.state is State.running and row.host else ""
        end = row.ended if row.state is not State.running else now
        lasted = f"{max(0.0, end - row.started):.0f} s" if row.started and end else ""
        error = "" if row.state is State.done else last_words(row.error or "")
        state = Text(row.state.value, STYLES.get(row.state, ""))
        found.add_row(Text(row.name), state, where, lasted, str(row.attempts), Text(error))
    return found


@contextmanager
def closing(console: Console, ledger: Ledger, names: Collection[str], *, always: bool = True) -> Iterator[None]:
    """Run trials, then show how each ended, also when the block is broken off; of those that did not, the last lines.

    Args:
        console: where it is shown.
        ledger: that they are kept in.
        names: theirs there.
        always: also if all are done.
    """
    try:
        yield
    finally:
        with suppress(Unusable):  # told by what is raised
            rows = [row for row in ledger.rows() if row.name in names]
            if always or any(row.state is not State.done for row in rows):
                _account(console, rows)
                for line in ways_on(ledger.study.name, rows):
                    console.print(line, markup=False, highlight=False, soft_wrap=True)


def ways_on(study: str, rows: Sequence[Row]) -> list[str]:
    """The commands that go on with what is not done, a sentence each."""
    found = Counter(row.state for row in rows)
    left = found[State.queued] + found[State.interrupted]
    ways = (
        (left, f"rft resume {shlex.quote(study)} goes on with the {left} that wait or were interrupted"),
        (found[State.failed], f"rft retry {shlex.quote(study)} starts those that failed once more"),
        (found[State.cancelled], f"rft retry {shlex.quote(study)} NAME starts one that was cancelled"),
    )
    return [sentence for number, sentence in ways if number]


def _account(console: Console, rows: Sequence[Row]) -> None:
    told = rows if len(rows) <= MOST else [row for row in rows if row.state is not State.done]
    shown = told[:MOST]
    if shown:
        console.print(table(shown, time.time()))
    if len(told) > MOST:
        console.print(f"and {len(told) - MOST} more, as rft status shows", highlight=False)
    console.print(f"trials: {counted(rows)}", highlight=False)
    for row in shown:
        lines = (row.error or "").strip().splitlines()[-LINES:]
        if row.state in (State.failed, State.interrupted) and len(lines) > 1:  # one line is in the table
            console.print(Text(f"{row.state.value} {row.name}", STYLES[row.state]), soft_wrap=True)
            for line in lines:
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
