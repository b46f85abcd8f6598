"""The history of a training that runs, for those that watch it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning

if TYPE_CHECKING:
    from rft.callbacks.training import History

SECONDS_BETWEEN_WRITES = 2.0


class Curves(lightning.Callback):
    """Writes the rows of a history beside the trial as they come, one JSON object a line.

    They are for looking at alone: nothing of a trial's results or checkpoints comes from here, and what cannot be
    written ends no training. New rows are added to the file, so that a long history costs no more than a short one; the
    last line may be cut off while it is being written.

    Args:
        history: whose rows; a callback that is called before this one.
        file: where they go; None: nowhere, as in all processes of a trial but the first.
    """

    def __init__(self, history: History, file: Path | None) -> None:
        self.history, self._file = history, file
        self._written = 0
        self._next = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Begin the file with the rows of the checkpoint that training goes on from."""
        self._written = 0
        self._write("w")

    def on_train_epoch_end(self, *_: Any) -> None:
        """Add what is new, if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self._write("a")

    def on_train_end(self, *_: Any) -> None:
        """Add the rest."""
        self._write("a")

    def on_exception(self, *_: Any) -> None:
        """Add the rest: a trial that failed or was stopped is looked at too."""
        self._write("a")

    def _write(self, mode: str) -> None:
        new = self.history.rows[self._written :]
        if self._file is None or not (new or mode == "w"):
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open(mode, encoding="utf-8") as stream:
                stream.writelines(f"{json.dumps(row)}\n" for row in new)
        except OSError:
            # Survived on purpose: a full disk or a vanished folder must not end a run for a picture's sake.
            self._file = None
        self._written += len(new)
        self._next = time.monotonic() + SECONDS_BETWEEN_WRITES
