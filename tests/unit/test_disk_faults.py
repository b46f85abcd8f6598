"""Launchers and their ledger on disks that are full or can only be read, and with clocks that jump."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rft.errors import UserError
from rft.study.jobs import Job
from rft.study.ledger import Ledger
from rft.study.ledger_file import FILE
from tests.disks import clock, fill, mounted, read_only
from tests.scripted import ROOT, start_launcher

SIZE = 1 << 20
# `rft`, but for what a trial does.
COMMAND = """
import sys
import rft.study.launch
from tests.scripted import Scripted
rft.study.launch.Launcher = Scripted
from rft.cli import main
sys.argv = ["rft", *sys.argv[1:]]
sys.exit(main())
"""


@dataclass
class World:
    """Where launchers run: a folder whose `runs` is a disk of its own."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def study(self) -> Path:
        return self.runs / "s"

    def jobs(self, *acts: str) -> list[Job]:
        return [
            Job(f"a seed {n}", (f"act={act}",), self.study / f"a-s{n}-00000000", forks=False, arm="a", seed=n)
            for n, act in enumerate(acts)
        ]

    def starts(self) -> Counter[str]:
        file = self.folder / "starts"
        return Counter(file.read_text(encoding="utf-8").split()) if file.exists() else Counter()

    def states(self) -> list[str]:
        return [row.state.value for row in Ledger(self.study).rows()]

    def rft(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | more
        command = [sys.executable, "-c", COMMAND, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def launch_until_they_run(self, names: Sequence[str], *acts: str) -> subprocess.Popen[bytes]:
        launcher = start_launcher(self.folder, self.jobs(*acts))
        wait_until(lambda: set(names) <= set(self.starts()))
        return launcher


def wait_until(condition: object, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Take all room of a disk."""
    ballast = fill(disk, but=0)
    yield
    ballast.unlink()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    with mounted(tmp_path / "runs", SIZE):
        yield World(tmp_path)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It said one line, with these words."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


def killed_with_two_running(world: World) -> None:
    """A launcher that was killed: one trial is done, two ran, one waits, and its ledger's WAL is still there."""
    launcher = world.launch_until_they_run(["a-s0", "a-s1", "a-s2"], "done", "wait", "wait", "done")
    wait_until(lambda: world.states() == ["done", "running", "running", "queued"])
    launcher.kill()
    launcher.wait()
    wait_until(lambda: world.states() == ["done", "interrupted", "interrupted", "queued"])


def finished(world: World, starts: Sequence[int]) -> None:
    """What is missing is done by `rft resume`, and nothing else."""
    (world.folder / "go").touch()
    done = world.rft("resume", "s")
    assert done.returncode == 0, done.stderr
    assert world.states() == ["done"] * len(starts)
    assert [world.starts()[f"a-s{n}"] for n in range(len(starts))] == list(starts)


@pytest.mark.slow
def test_a_study_that_can_only_be_read_is_shown_and_not_gone_on_with(world: World) -> None:
    killed_with_two_running(world)
    with read_only(world.runs):
        shown = world.rft("status", "s", "--json")
        for command in ("resume", "retry", "cancel"):
            refused(world.rft(command, "s"), FILE, "Read-only file system", "see that you may write there")
    assert shown.returncode == 0, shown.stderr
    assert [row["state"] for row in json.loads(shown.stdout)] == ["done", "interrupted", "interrupted", "queued"]
    (line,) = shown.stderr.strip().splitlines()
    assert f"{FILE}: cannot be used" in line
    assert "Read-only file system" in line
    assert line.endswith("this is a copy")
    finished(world, [1, 2, 2, 1])


def test_a_damaged_ledger_that_can_only_be_read_is_shown_by_the_plan_and_the_records(world: World) -> None:
    killed_with_two_running(world)
    (world.study / FILE).write_bytes(b"no ledger" * 999)
    with read_only(world.runs):
        shown = world.rft("status", "s", "--json")
    assert shown.returncode == 0, shown.stderr
    assert Counter(row["state"] for row in json.loads(shown.stdout)) == {"done": 1, "queued": 3}
    assert "it is damaged" in shown.stderr
    assert (world.study / FILE).read_bytes() == b"no ledger" * 999


def test_a_runs_folder_that_can_only_be_read_is_named_before_anything_starts(world: World) -> None:
    with read_only(world.runs), pytest.raises(UserError, match=rf"{FILE}: cannot be used \(.*Read-only file system"):
        Ledger(world.study)


@pytest.mark.parametrize("fault", [full, pytest.param(read_only, marks=pytest.mark.slow)])
def test_a_disk_that_takes_no_more_while_trials_run_loses_none_of_them(
    world: World, fault: Callable[[Path], AbstractContextManager[object]]
) -> None:
    launcher = world.launch_until_they_run(["a-s0", "a-s1", "a-s2"], "done", "wait", "wait", "done")
    wait_until(lambda: world.states() == ["done", "running", "running", "queued"])
    with fault(world.runs):
        assert launcher.wait(200) != 0
        shown = world.rft("status", "s", "--json")
    assert shown.returncode == 0, shown.stderr
    assert [row["state"] for row in json.loads(shown.stdout)] == ["done", "interrupted", "interrupted", "queued"]
    finished(world, [1, 2, 2, 1])


def test_a_full_disk_is_named_by_the_command(world: World) -> None:
    killed_with_two_running(world)
    with full(world.runs):
        refused(world.rft("resume", "s"), str(world.study), "cannot be used", "the disk has room")
    assert world.states() == ["done", "interrupted", "interrupted", "queued"]
    finished(world, [1, 2, 2, 1])


def test_a_clock_that_is_set_back_while_a_launcher_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name, value in clock(world.folder, 0).items():
            patch.setenv(name, value)
        launcher = world.launch_until_they_run(["a-s0", "a-s1", "a-s2"], "done", "wait", "wait", "done")
        (world.folder / "off").write_text(str(-400 * 86400), encoding="utf-8")
        (world.folder / "go").touch()
        assert launcher.wait(200) == 0
    rows = Ledger(world.study).rows()
    assert [row.state.value for row in rows] == ["done"] * 4
    assert [row.attempts for row in rows] == [1] * 4
    assert min(row.ended or 0 for row in rows) < (rows[0].started or 0) - 300 * 86400  # it was set back
    shown = world.rft("status", "s")
    assert "4 done" in shown.stdout
    assert " -" not in shown.stdout
