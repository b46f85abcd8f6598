"""What a process asks of the system before its work."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from rft.config import compose
from rft.runtime import PLANS, on_huge_pages, uncollected
from rft.store import Store
from rft.study.pipeline import Pipeline

RANK = """
import os, time
from rft.runtime import prepare_process
prepare_process()
print(os.getpid(), flush=True)
time.sleep(60)
"""
LATE = """
import os, time
from rft.runtime import prepare_process
first = os.getppid()
print(os.getpid(), flush=True)
while os.getppid() == first:
    time.sleep(0.01)
prepare_process()
time.sleep(60)
"""
FIRST = """
import os, subprocess, sys
from rft.runtime import prepare_process
prepare_process()
subprocess.run([sys.executable, "-c", sys.argv[1]], env=os.environ | {"LOCAL_RANK": "1"})
"""


def runs(process: Path) -> bool:
    """What is left of an ended process until it is reaped has no command line."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
@pytest.mark.parametrize("rank_code", [RANK, LATE], ids=["ready", "not ready yet"])
def test_a_rank_ends_with_the_process_that_started_it(rank_code: str) -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST, rank_code], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        rank = Path("/proc") / first.stdout.readline().strip()
        assert runs(rank)
        first.kill()
    deadline = time.monotonic() + 10
    while runs(rank):
        assert time.monotonic() < deadline, "the rank outlived the first process"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ("passive", "10000")),
        ({"GOMP_SPINCOUNT": "5"}, ("passive", "5")),
        ({"OMP_WAIT_POLICY": "active"}, ("active", None)),
    ],
    ids=["nothing", "turns", "policy"],
)
def test_threads_wait_as_the_user_says(given: dict[str, str], wanted: tuple[str, str | None]) -> None:
    code = "import os; from rft.runtime import prepare_process; prepare_process()\n"
    code += "print(*(os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(value) for value in wanted]


def test_what_a_stage_made_and_keeps_itself_is_gone_after_it(tmp_path: Path) -> None:
    class Round:
        itself: object = None

    def make(_: Path) -> None:
        one = Round()
        one.itself = one
        left.append(weakref.ref(one))

    left: list[weakref.ref[Round]] = []
    pipeline = Pipeline(compose(["model=tiny", "tracker=none"]), Store(tmp_path / "store"), tmp_path)
    gc.disable()
    try:
        pipeline.stage("candidates", {}, {}, make)
    finally:
        gc.enable()
    assert left[0]() is None


OLDER_NAME = "DNNL_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, ["64", "64"]), ({"LRU_CACHE_CAPACITY": "7"}, ["7", "64"]), ({OLDER_NAME: "7"}, ["64", "None"])],
    ids=["nothing", "one", "the older name"],
)
def test_few_plans_are_kept_unless_the_user_says_how_many(given: dict[str, str], wanted: list[str]) -> None:
    code = "import os; from rft.runtime import PLANS, prepare_process; prepare_process()\n"
    code += "print(*(os.environ.get(name) for name in PLANS))"
    clean = {name: value for name, value in os.environ.items() if name not in {*PLANS, OLDER_NAME}}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == wanted


def gives_huge_pages() -> bool:
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.exists() or not Path("/proc/self/smaps_rollup").exists():
        return False
    glibc = tuple(map(int, platform.libc_ver()[1].split(".")[:2]))
    return "[madvise]" in offered.read_text(encoding="ascii") and glibc >= (2, 35)


HUGE = """
import ctypes, re
from pathlib import Path
from rft.runtime import prepare_process
prepare_process()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(ctypes.c_size_t(64 << 20)), 1, 64 << 20)
print(re.search(r"AnonHugePages: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])
"""


@pytest.mark.skipif(not gives_huge_pages(), reason="asks a kernel and a glibc that give huge pages to those who ask")
@pytest.mark.parametrize(
    ("given", "least", "most"), [({}, 16, 128), ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, 0, 8)]
)
def test_what_a_process_allocates_lies_on_huge_pages_unless_the_user_says_how(
    given: dict[str, str], least: int, most: int
) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", HUGE], env=on_huge_pages(clean | given), capture_output=True, text=True, check=True
    )
    assert least <= int(done.stdout) / 1024 <= most  # MB, of 64


@pytest.mark.parametrize("collects", [True, False])
def test_what_is_made_while_nothing_is_collected_is_never_looked_through(collects: bool) -> None:
    before, frozen = gc.isenabled(), gc.get_freeze_count()
    (gc.enable if collects else gc.disable)()
    try:
        with uncollected():
            assert not gc.isenabled()
            made: list[list[int]] = [[] for _ in range(10_000)]
        assert gc.isenabled() is collects
        assert gc.get_freeze_count() >= frozen + len(made)
        assert not any(one is made[0] for one in gc.get_objects())
    finally:
        (gc.enable if before else gc.disable)()
