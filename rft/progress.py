"""Progress of long work: a bar with the time left on a terminal, elsewhere silence, a file for a parent.

* stderr is a terminal: a rich bar is drawn there. Bars opened inside a bar share its display.
* ``RFT_PROGRESS_FILE`` is set: the outermost bar's state goes there as one JSON object, so that a process
  that runs several trials can draw them all. The file is always whole (written beside and renamed).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

FILE_VARIABLE = "RFT_PROGRESS_FILE"
SECONDS_BETWEEN_WRITES = 0.2

T = TypeVar("T")


class Progress:
    """One running bar; made by :func:`bar`."""

    def __init__(self, description: str, total: int | None, file: Path | None = None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._file = file
        self._next_write = 0.0
        self._display: RichProgress | None = None
        self._task: TaskID | None = None

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""
        self.done += n
        if self._display is not None and self._task is not None:
            self._display.update(self._task, completed=self.done)
        self._write()

    def _show_on(self, display: RichProgress) -> None:
        self._display = display
        self._task = display.add_task(self.description, total=self.total)

    def _close(self) -> None:
        if self._display is not None and self._task is not None:
            self._display.stop_task(self._task)
            if len(_open) > 1:
                self._display.remove_task(self._task)
        self._write(final=True)

    def _write(self, final: bool = False) -> None:
        now = time.monotonic()
        if self._file is None or (not final and now < self._next_write):
            return
        self._next_write = now + SECONDS_BETWEEN_WRITES
        state = {
            "description": self.description,
            "done": self.done,
            "total": self.total,
            "elapsed": round(now - self._started, 3),
        }
        beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(state), encoding="utf-8")
            beside.replace(self._file)
        except OSError:
            # Survived on purpose: a full disk or a vanished folder must not end a run for a bar's sake.
            beside.unlink(missing_ok=True)
            self._file = None


_open: list[Progress] = []
_display: RichProgress | None = None


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Progress]:
    """Show `description` until the block ends; `total` in the units given to ``advance`` (None: unknown)."""
    global _display
    name = os.environ.get(FILE_VARIABLE)
    progress = Progress(description, total, Path(name) if name and not _open else None)
    _open.append(progress)
    try:
        if _display is None and sys.stderr.isatty():
            _display = _start_display()
        if _display is not None:
            progress._show_on(_display)
        progress._write()
        yield progress
    finally:
        progress._close()
        _open.remove(progress)
        if not _open and _display is not None:
            _display.stop()
            _display = None


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable` under a bar; an item counts as done when the next one is asked for."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with bar(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance()


def _start_display() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    display = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    display.start()
    return display
