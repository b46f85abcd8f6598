"""Training waits for no tracker longer than it may, and none of them ends a trial."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rft.callbacks.trackers.base import Run, Tracker
from rft.callbacks.trackers.behind import Behind

RUN = Run("0", "study", "arm", "tiny", 0, "policy", (), Path(), {}, {})


class Kept(Tracker):
    """Keeps all that it is told; hangs or fails where it is asked to."""

    patience = 0.3

    def __init__(self, hangs: str = "", fails: str = "", error: type[BaseException] = ConnectionError) -> None:
        self.hangs, self.fails, self.error = hangs, fails, error
        self.rows: list[tuple[int, float]] = []
        self.ended: list[tuple[Mapping[str, float], bool]] = []
        self.threads: set[int] = set()

    def _reach(self, point: str) -> None:
        self.threads.add(threading.get_ident())
        if self.hangs == point:
            time.sleep(60)
        if self.fails == point:
            raise self.error(f"gone{os.environ.get('MY_API_KEY', '')}\nsecond line")

    def start(self, run: Run) -> None:
        self._reach("start")

    def log(self, row: Mapping[str, float], step: int) -> None:
        self._reach("log")
        self.rows.append((step, row["x"]))

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        self._reach("finish")
        self.ended.append((metrics, failed))


def tell(trackers: list[Tracker], rows: int, waiting: int = 1000) -> tuple[float, float]:
    """Seconds that rows and end took."""
    behind = Behind(trackers, patience=0.4, waiting=waiting)
    begun = time.monotonic()
    behind.start(RUN)
    row = {"x": 0.0}
    for step in range(rows):
        row["x"] = step / 2
        behind.log(row, step)
    middle = time.monotonic()
    behind.finish({"y": 1.0}, True)
    return middle - begun, time.monotonic() - middle


def test_all_is_told_in_order_from_one_other_thread() -> None:
    kept = Kept()
    tell([kept], 200, waiting=3)
    assert kept.rows == [(step, step / 2) for step in range(200)], "a row is what it was when it was told"
    assert kept.ended == [({"y": 1.0}, True)]
    assert len(kept.threads) == 1
    assert threading.get_ident() not in kept.threads


@pytest.mark.parametrize("point", ["start", "log", "finish"])
def test_one_that_hangs_is_waited_for_once_in_all(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    hangs, well = Kept(hangs=point), Kept()
    rows, end = tell([hangs, well], 200, waiting=10)
    assert rows < 0.4 + 0.5, "each of 190 rows would have waited"
    assert end < 0.3 + 0.5
    assert len(well.rows) == 200
    assert well.ended
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("tracker: kept: ")


@pytest.mark.parametrize("point", ["start", "log", "finish"])
def test_one_that_fails_is_told_of_once_and_ends_nothing(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails, well = Kept(fails=point), Kept()
    tell([fails, well], 50)
    assert len(well.rows) == 50
    told = capsys.readouterr().err
    without = "the trial goes on without it, and its metrics are in the store all the same"
    assert told == f"tracker: kept: ConnectionError: gone; {without}\n"


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_one_that_failed_is_ended_all_the_same(error: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    fails = Kept(fails="log", error=error)
    tell([fails], 50, waiting=3)
    assert fails.rows == []
    assert fails.ended == [({"y": 1.0}, True)], "else its run would stay open"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_said_of_one_that_fails_holds_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-of-a-tracker")
    tell([Kept(fails="log")], 3)
    assert capsys.readouterr().err.startswith("tracker: kept: ConnectionError: gone…; ")
