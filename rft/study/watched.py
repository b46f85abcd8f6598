"""A study that is looked at again and again while it runs; what did not change is not read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rft.errors import UserError
from rft.store.names import CURVES_FILE, HISTORY_FILE, PROGRESS_FILE, RECORD
from rft.study.finished import record_of
from rft.study.local import History, history_of
from rft.study.owner import launchers
from rft.study.reading import rows_of
from rft.study.rows import Row, State

T = TypeVar("T")
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A trial, or a stage that trials share, at one moment."""

    row: Row
    progress: Mapping[str, Any]
    """The bar of what it is at: ``description``, ``done``, ``total``; empty if it tells none."""
    history: History
    metrics: Mapping[str, float]
    """Of the final test, if it is done."""


@dataclass(frozen=True, slots=True)
class Look:
    """A study at one moment."""

    study: str
    trials: Sequence[Row]
    """All trials of arms, in the order of the plan."""
    others: Sequence[Row]
    """Stages that trials share, and tuning trials, that run."""
    at_work: bool
    """Whether a launcher is alive, or a trial runs."""
    notes: Sequence[str]
    """What is wrong with the ledger."""

    @property
    def all_done(self) -> bool:
        """Whether every trial ended well."""
        return all(row.state is State.done for row in self.trials)


class Watched:
    """A study's folder.

    Args:
        study: the folder; it has a ledger, or what one is made from.
    """

    def __init__(self, study: Path) -> None:
        self.study = study
        self._notes: dict[str, None] = {}
        self._kept: dict[Path, tuple[Stamp | None, Any]] = {}

    def look(self) -> Look:
        """Where everything stands now.

        Raises:
            UserError: if the ledger cannot be read.
        """
        # First who is at work: what ends after that is seen as running, and looked at once more.
        alive = bool(launchers(self.study))
        rows = rows_of(self.study, lambda line: self._notes.update({line: None}))
        running = [row for row in rows if row.state is State.running]
        return Look(
            self.study.absolute().name,
            [row for row in rows if row.is_trial],
            [row for row in running if not row.is_trial],
            alive or bool(running),
            list(self._notes),
        )

    def see(self, row: Row) -> Seen:
        """All that is shown of a row."""
        folder = self.study / row.name
        progress = _progress(folder / PROGRESS_FILE) if row.state is State.running else {}
        record = self._once(folder / RECORD, lambda: record_of(folder)) if row.state is State.done else {}
        metrics = record.get("metrics")
        return Seen(row, progress, self._history(folder, row.state), metrics if isinstance(metrics, dict) else {})

    def _history(self, folder: Path, state: State) -> History:
        def read() -> History:
            try:
                return history_of(folder, state)
            except UserError:  # damaged; the others are looked at all the same
                return []

        return self._once(folder / (HISTORY_FILE if state is State.done else CURVES_FILE), read)

    def _once(self, file: Path, read: Callable[[], T]) -> T:
        """What reading a file gave, read again only if the file is another."""
        try:
            found = file.stat()
            stamp: Stamp | None = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = None
        if file not in self._kept or self._kept[file][0] != stamp:
            self._kept[file] = stamp, read()
        kept: T = self._kept[file][1]
        return kept


def _progress(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
