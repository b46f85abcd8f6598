"""The live view while a launcher is at work: where its trials stand, and how far those are that run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rft.study.account import counted, table
from rft.study.rows import Row, State

ORDER = (State.failed, State.interrupted, State.cancelled, State.running, State.queued, State.done)
"""Which trials are shown first where there is no room for all."""
LEAST = 4
"""Rows that are shown however low the terminal is."""


class Board:
    """A table of trials above a bar over all and one for each that runs; only on a terminal.

    Args:
        console: where it is drawn.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console)
        self.rows: Sequence[Row] = ()
        """Of the ledger, in the order of the plan."""
        self._console = console
        self._live = Live(get_renderable=self._drawn, console=console, transient=True, refresh_per_second=2)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def _drawn(self) -> Group:
        rows = sorted(self.rows, key=lambda row: ORDER.index(row.state))
        room = max(LEAST, self._console.height - len(self.progress.tasks) - LEAST)
        if len(rows) < 2:  # its bar says it all
            return Group(self.progress)
        more = f"; {len(rows) - room} more are not shown" if len(rows) > room else ""
        return Group(table(rows[:room], time.time()), Text(counted(rows) + more), self.progress)
