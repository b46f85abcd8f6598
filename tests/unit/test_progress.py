"""Progress: the file for a parent process, silence without a terminal, a bar on one."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rft.progress import FILE_VARIABLE, bar, track

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.json"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    return path


def test_track_yields_everything_and_takes_the_length(file: Path) -> None:
    seen = list(track([1, 2, 3], "numbers"))
    state = json.loads(file.read_text())
    assert seen == [1, 2, 3]
    assert (state["description"], state["done"], state["total"]) == ("numbers", 3, 3)
    assert 0 <= state["elapsed"] < 5


def test_unknown_length_is_null(file: Path) -> None:
    assert list(track(iter("ab"), "letters")) == ["a", "b"]
    state = json.loads(file.read_text())
    assert (state["done"], state["total"]) == (2, None)


def test_state_is_written_at_the_start_and_after_an_error(file: Path) -> None:
    def work() -> None:
        with bar("work", 10) as progress:
            assert json.loads(file.read_text())["done"] == 0
            progress.advance(4)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        work()
    assert json.loads(file.read_text())["done"] == 4


def test_leaving_a_loop_early_closes_its_bar(file: Path) -> None:
    for item in track(range(10), "first"):
        if item == 3:
            break
    assert json.loads(file.read_text())["done"] == 3
    list(track(range(2), "second"))
    assert json.loads(file.read_text())["description"] == "second"


def test_writes_at_most_five_times_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal writes
        writes += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    started = time.monotonic()
    with bar("work", 600) as progress:
        for _ in range(600):
            progress.advance()
            time.sleep(0.001)
    elapsed = time.monotonic() - started
    assert 3 <= writes <= elapsed * 5 + 2
    assert json.loads(file.read_text())["done"] == 600


def test_the_outermost_bar_has_the_file(file: Path) -> None:
    for _ in track(range(2), "outer"):
        for _ in track(range(5), "inner"):
            pass
        assert json.loads(file.read_text())["description"] == "outer"
    assert json.loads(file.read_text())["done"] == 2


def test_a_file_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "gone" / "progress.json"))
    assert list(track(range(3), "work")) == [0, 1, 2]


def test_no_half_file_is_ever_read(file: Path) -> None:
    code = "import time, rft.progress as p\nfor _ in p.track(range(150), 'x' * 3000): time.sleep(0.01)"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    reads = 0
    while process.poll() is None:
        if file.exists():
            assert json.loads(file.read_text())["total"] == 150
            reads += 1
    assert process.returncode == 0
    assert reads > 100
    assert list(file.parent.iterdir()) == [file]


def test_quiet_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "work")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_one_display_for_nested_bars() -> None:
    code = """
import time
from rft.progress import track
for _ in track(range(3), "outer work"):
    for _ in track(range(3), "inner work"):
        time.sleep(0.05)
"""
    parent, child = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=child, stdout=subprocess.PIPE)
    os.close(child)
    shown = b""
    while select.select([parent], [], [], 20)[0]:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.communicate(timeout=20)[0] == b""
    assert process.returncode == 0
    text = shown.decode()
    assert "outer work" in text
    assert "inner work" in text
    assert "3/3" in text
