"""What a launcher costs: seconds a trial beyond the trial itself, and memory for a thousand that wait."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rft.study.waves import WAVES
from tests.integration.harness import OF, REPOSITORY, TINY, environment, study, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("large"),
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

# A task from another package: a trial says when it began, and either ends or waits to be killed.
PROBE = """
import os, sys, time
from dataclasses import dataclass
from rft.tasks.imdb_sentiment import Config as ImdbConfig
from rft.tasks.imdb_sentiment import ImdbSentiment


@dataclass
class Config(ImdbConfig):
    waits: bool = False


class Probe(ImdbSentiment):
    def __init__(self, config, store):
        started = int(open("/proc/self/stat").read().rpartition(") ")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        now = float(open("/proc/uptime").read().split()[0])
        with open(os.environ["STAMPS"], "a") as file:
            file.write(f"{now} {now - started}\\n")
        if config.waits:
            time.sleep(3600)
        sys.exit(0)
"""
TRIAL = (*OF["sft"], "model=tiny", "tracker=none", "task._target_=probe.Probe", "strategy=cpu")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "probe.py").write_text(PROBE, encoding="utf-8")
    path = f"{REPOSITORY}{os.pathsep}{tmp_path / 'packages'}"
    more = {"PYTHONPATH": path, "RFT_ALLOWED_PACKAGES": "probe", "STAMPS": str(tmp_path / "stamps")}
    return environment(tmp_path / "store", **more)


def stamps(folder: Path) -> list[tuple[float, float]]:
    """When each trial began its work, and how old its process was then, in seconds: its imports, its composing."""
    file = folder / "stamps"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(float(now), float(age)) for now, age in map(str.split, lines)]


def cpu(pid: int) -> float:
    """Seconds of CPU that a process took, without those of its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_memory(pid: int) -> float:
    """MB that a process has held at most."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def children(pid: int) -> list[str]:
    """Process ids of those that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()


@contextmanager
def started(arguments: list[str], cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher, killed at the end if it still runs; its trials go with it."""
    with (cwd / "launcher.txt").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "rft", *arguments], cwd=cwd, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("fork", ["1", "0"], ids=["forks", "plain"])
def test_under_a_second_a_trial(fork: str, env: dict[str, str], tmp_path: Path) -> None:
    env |= {"RFT_FORK": fork}
    trials = 12
    processes = trials + len(WAVES)  # the stages that they share come first
    sweep = ["run", "-m", *TRIAL, f"seed=range(0,{trials})", "study=many", "hydra.launcher.jobs=1"]
    with started(sweep, tmp_path, env) as launcher:
        wait_until(lambda: stamps(tmp_path) or launcher.poll() is not None, 1200)
        spent = cpu(launcher.pid)
        wait_until(lambda: len(stamps(tmp_path)) == processes or launcher.poll() is not None, 1200)
        spent = (cpu(launcher.pid) - spent) / (processes - 1)
        # Each leaves before it has a record, and such an end is not taken for a good one.
        told = (launcher.wait(), (tmp_path / "launcher.txt").read_text(encoding="utf-8"))
        assert told[0] == 2, told[1]
        assert f"{trials} trials of the sweep did not end well" in told[1]
    begun = stamps(tmp_path)
    assert len(begun) == processes
    # From the moment a trial begins its work, and ends at once, to the start of the next one's process.
    between = [later - age - earlier for (earlier, _), (later, age) in itertools.pairwise(begun)]
    own = statistics.median(age for _, age in begun[1:])
    print(f"fork={fork}: {statistics.median(between):.2f} s between trials ({min(between):.2f} to {max(between):.2f})")
    print(f"{own:.2f} s of each until it begins its work; {spent:.3f} s of CPU of the launcher a trial")
    assert statistics.median(between) < 1
    assert spent < 0.2


@pytest.mark.parametrize("way", ["sweep", "study"])
def test_a_thousand_trials_wait_in_500_megabytes(way: str, env: dict[str, str], tmp_path: Path) -> None:
    command = ["run", "-m", *TRIAL, "+task.waits=true", "seed=range(0,1000)", "study=many", "hydra.launcher.jobs=1"]
    if way == "study":
        more = ["tracker=none", "task._target_=probe.Probe", "strategy=cpu", "+task.waits=true"]
        where = study(tmp_path / "many", overrides=[*TINY, *more], seeds=list(range(1000)), jobs=1)
        command = ["compare", str(where)]
    ledger = tmp_path / "runs" / "many" / "ledger.sqlite"

    def queued() -> int:
        time.sleep(0.2)  # what asks must not take what is measured
        try:
            with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=60)) as rows:
                return int(rows.execute("SELECT count(*) FROM trials WHERE state = 'queued'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    began = time.monotonic()
    with started(command, tmp_path, env) as launcher:
        wait_until(lambda: queued() >= 999 or launcher.poll() is not None, 3000)
        until_queued = cpu(launcher.pid)
        wait_until(lambda: stamps(tmp_path) or launcher.poll() is not None, 600)
        assert launcher.poll() is None, (tmp_path / "launcher.txt").read_text(encoding="utf-8")
        took = time.monotonic() - began
        before, _ = cpu(launcher.pid), time.sleep(10)
        idle = (cpu(launcher.pid) - before) / 10
        memory = most_memory(launcher.pid)
        beside = sum(most_memory(int(pid)) for pid in children(launcher.pid))
    print(f"{way}: {memory:.0f} MB, and {beside:.0f} MB of what trials are forked from")
    print(f"queued after {until_queued:.0f} s of CPU, the first trial began after {took:.0f} s")
    print(f"while one runs the launcher takes {100 * idle:.0f} % of a core")
    assert memory < 500
    assert until_queued < 1000 * 0.5
    assert idle < 0.3
