"""Tells trackers from threads of their own, so that training waits for none of them longer than a few seconds."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rft.callbacks.trackers.base import Artifact, Histogram, Run, Tracker
from rft.config import TrackerConfig
from rft.secrets import scrubbed

PATIENCE = 5.0
"""Seconds that a whole training waits for one tracker."""
WAITING = 10_000
"""Rows that wait for a tracker before training does."""
WITHOUT = "the trial goes on without it, and its metrics are in the store all the same"
"""What a tracker that is lost means for a trial."""
_log = logging.getLogger(__name__)


def tell(text: str) -> None:
    """Say a line to the user, who asked for the tracker; without secrets, since a launcher keeps what trials say."""
    sys.stderr.write(f"tracker: {scrubbed(text)}\n")


class _Worker:
    """One tracker, its thread and what waits for it."""

    def __init__(self, tracker: Tracker, patience: float, waiting: int, without: str) -> None:
        self.tracker, self._patience, self._left, self._without = tracker, patience, patience, without
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)
        self._last: Callable[[], None] | None = None
        self.lost = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{self.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """What it is called in lines to the user."""
        return type(self.tracker).__name__.lower()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self.lost and job is not self._last:  # its run is ended all the same
                continue
            try:
                job()
            except BaseException as error:  # a tracker may raise anything, and no trial ends for it
                _log.debug("tracker %s", self.name, exc_info=True)
                if not self.lost:
                    self._lose(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")

    def _lose(self, reason: str) -> None:
        self.lost = True
        tell(f"{self.name}: {reason}; {self._without}")

    def put(self, job: Callable[[], None] | None) -> None:
        """Let the thread do something after all else; waits while too much is waiting, in all as long as it may."""
        begun = time.monotonic()
        try:
            self._jobs.put(job, timeout=max(0.0, self._left))
        except queue.Full:
            if not self.lost:
                self._lose(f"takes no more for {self._patience:g} s")
        self._left -= time.monotonic() - begun

    def put_last(self, job: Callable[[], None]) -> None:
        """Let the thread do something after all else, even if the tracker is lost, and end."""
        self._last = job
        self.put(job)
        self.put(None)

    def end(self, deadline: float) -> None:
        """Wait until all is done, at most until a deadline of the monotonic clock; for one that is lost, not long."""
        now = time.monotonic()
        self._thread.join(max(0.0, min(deadline, now + self._patience) - now if self.lost else deadline - now))
        if self._thread.is_alive() and not self.lost:
            self._lose(f"did not end within {self.tracker.patience:g} s")


class Behind(Tracker):
    """All trackers of a trial, each told from a thread of its own.

    Args:
        trackers: those that are told.
        patience: seconds that training waits for one of them, in all.
        waiting: rows that may wait for one.
        without: what the line about one that is lost says of what goes on.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        patience: float = PATIENCE,
        waiting: int = WAITING,
        without: str = WITHOUT,
    ) -> None:
        self._workers = [_Worker(one, patience, waiting, without) for one in trackers]

    @property
    def lost(self) -> bool:
        """Whether one of them has not been told all."""
        return any(one.lost for one in self._workers)

    @property
    def kept(self) -> TrackerConfig:
        """What the one that is told most is told."""
        each = [one.tracker.kept for one in self._workers]
        return TrackerConfig(
            samples=max((one.samples for one in each), default=0),
            histograms=max((one.histograms for one in each), default=0),
            artifacts=any(one.artifacts for one in each),
            artifact_mb=max((one.artifact_mb for one in each), default=0.0),
        )

    def _tell(self, do: Callable[[Tracker], None], wanted: Callable[[TrackerConfig], Any] = lambda _: True) -> None:
        for one in self._workers:
            if wanted(one.tracker.kept):
                one.put(partial(do, one.tracker))

    def start(self, run: Run) -> None:
        """Begin the run; training does not wait for it."""
        self._tell(lambda to: to.start(run))

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Hand over a row."""
        kept = dict(row)
        self._tell(lambda to: to.log(kept, step))

    def uses(self, artifact: Artifact) -> None:
        """Hand over an input."""
        self._tell(lambda to: to.uses(artifact), lambda kept: kept.artifacts)

    def makes(self, artifact: Artifact) -> None:
        """Hand over a result."""
        self._tell(lambda to: to.makes(artifact), lambda kept: kept.artifacts)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Hand over a table."""
        self._tell(lambda to: to.table(name, columns, rows, step))

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Hand over a distribution."""
        self._tell(lambda to: to.histogram(name, histogram, step), lambda kept: kept.histograms)

    def figure(self, name: str, path: Path, step: int) -> None:
        """Hand over a picture."""
        self._tell(lambda to: to.figure(name, path, step))

    def html(self, name: str, path: Path, step: int) -> None:
        """Hand over a page."""
        self._tell(lambda to: to.html(name, path, step))

    def text(self, name: str, text: str) -> None:
        """Hand over a sentence."""
        self._tell(lambda to: to.text(name, text))

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """End all at once; waits for each as long as it may take."""
        begun = time.monotonic()
        for one in self._workers:
            one.put_last(partial(one.tracker.finish, metrics, failed))
        for one in self._workers:
            one.end(begun + one.tracker.patience)
