"""Settings of the process that must be made before torch is loaded."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rft.errors import UserError

# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
PLANS = {"LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""Environment variables: how many of its plans of products oneDNN keeps, in torch's binding and in the library."""
_FIRST = "_RFT_FIRST_RANK"
"""Environment variable: process id of a trial's first process, which starts the further ones."""
THREADS = "RFT_THREADS"
"""Environment variable: CPU threads of a trial over all its processes."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU in a period, and the period (control groups, version 2)."""


def cores() -> int:
    """Cores that this process may use, by its mask and by the quota of the container that it is in, if there is one."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no container, or "max"
        return seen
    return max(1, min(seen, -(-quota // period)))


def asked_threads() -> int:
    """CPU threads of this trial by ``RFT_THREADS``; 0 if it says nothing.

    Raises:
        UserError: if it is no whole number, or less than 0.
    """
    told = os.environ.get(THREADS) or "0"
    if not told.isdecimal():
        raise UserError(f"{THREADS}={told}: must be a whole number, 0 (all cores) or more; correct or unset it")
    return int(told)


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however that comes; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_process(code: int) -> NoReturn:
    """End as an interpreter does, but for freeing all that was imported, which takes longer than most commands."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def on_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a process that starts asks for huge pages, unless it says how glibc allocates.

    A token of a few responses at once reads all weights, which lie on tens of thousands of small pages. glibc reads the
    variable before anything runs, so that a process cannot ask for itself; elsewhere, and where the kernel has none to
    give, nothing changes.
    """
    if sys.platform != "linux" or _TUNABLES in environment:
        return dict(environment)
    return {**environment, _TUNABLES: _HUGE_PAGES}


def prepare_process() -> None:
    """Make this process fit for numerical work beside others: waiting threads soon sleep, freed memory is kept.

    OpenMP threads that wait for one another spin by default; where another process takes one of their cores, a step
    was ten times slower for it. They spin for 10,000 turns, a fraction of a millisecond, and sleep then.
    oneDNN keeps a plan for each shape of a product, a thousand of them by default, and nearly every batch has a shape
    of its own: hundreds of megabytes of plans for a policy's training. One is made anew in less than a millisecond.
    What the user has set in the environment stays.
    """
    for name, most in PLANS.items():
        if name.replace("ONEDNN", "DNNL") not in os.environ:  # its older name, which the library reads second
            os.environ.setdefault(name, most)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries, which do not look
    if int(os.environ.get("LOCAL_RANK") or 0) > 0:
        end_with_parent()  # a rank waits for the others for ever, even for a first that was killed
        if _FIRST in os.environ and os.getppid() != int(os.environ[_FIRST]):
            os._exit(1)  # it was killed before
    else:
        os.environ[_FIRST] = str(os.getpid())
    keep_freed_memory()


@contextmanager
def uncollected() -> Iterator[None]:
    """While open, what stays until the process ends can be imported: no collection looks through it, then or later.

    Those during the imports of a trial took a sixth of their time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextmanager
def emptied() -> Iterator[None]:
    """When it ends, what was made in it and keeps itself in circles is freed, as trainers, modules and engines do.

    The memory is for what comes next: that of a policy's training stood beside that of its test, a gigabyte more.
    """
    try:
        yield
    finally:
        gc.collect()


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, unless the environment says how it allocates.

    It gives large blocks back to the system at once and takes them again page by page, which was a fifth of a training
    step.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_MAX_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
