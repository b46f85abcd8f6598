"""A study of 1,000 trials: what loading and comparing it cost in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.harness import environment
from tests.synthetic_study import LargeStudy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("large"), pytest.mark.timeout(900)]

LOAD = """
import sys, time
from pathlib import Path
import pyarrow.parquet, scipy.stats  # what importing costs is not what loading costs
from rft.report import load_study
from rft.store import Store
began = time.process_time()
results = load_study(Path(sys.argv[1]), Store.default())
print(len(results.trials), len(results.failed), time.process_time() - began)
"""


@dataclass(frozen=True)
class Used:
    """What a process took: seconds by the clock and of its CPU, most memory in MB, and what it printed."""

    wall: float
    cpu: float
    memory: float
    printed: str


def measured(command: list[str], cwd: Path, store: Path) -> Used:
    began = time.monotonic()
    with subprocess.Popen(command, cwd=cwd, env=environment(store), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Used(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, printed)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> LargeStudy:
    """200 arms of 5 seeds, 256 rows each; made in less time than comparing it may take."""
    began = time.monotonic()
    study = LargeStudy(tmp_path_factory.mktemp("large")).make()
    assert time.monotonic() - began < 30
    return study


def test_is_loaded_in_six_seconds_and_700_megabytes(large: LargeStudy) -> None:
    command = [sys.executable, "-c", LOAD, str(large.folder)]
    used = measured(command, large.folder.parents[1], large.store.root)
    print(f"loading: {used}")
    trials, failed, cpu = used.printed.split()
    assert (int(trials), int(failed)) == (1000, 0)
    # Of this process alone: what else the machine does counts for nothing.
    assert float(cpu) < 6
    assert used.memory < 700


def test_is_compared_in_twenty_seconds_and_two_gigabytes(large: LargeStudy) -> None:
    cwd = large.folder.parents[1]
    used = measured([sys.executable, "-m", "rft", "compare", "demo", "--strict"], cwd, large.store.root)
    print(f"comparing: {used.wall:.1f} s, {used.cpu:.1f} s of CPU, {used.memory:.0f} MB")
    summary = json.loads((large.folder / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["arms"]) == 200
    assert (large.folder / "report.html").stat().st_size > 0
    assert used.memory < 2000
    assert used.wall < 20
