"""What the jobs of a later wave need, made beside a job of the first one while that leaves a core idle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rft.progress import FILE_VARIABLE
from rft.runtime import asked_threads, end_with_parent
from rft.study.forks import SUPPORTED
from rft.study.jobs import AHEAD
from rft.study.warm import require_one_thread

MOST = 600.0
"""Seconds that a job waits at its end for what is made beside it; what takes longer is left to those who need it."""
GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL."""
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def made_ahead(prepare: Callable[[], object], ask: Callable[[], object]) -> Iterator[None]:
    """Ask for an entry of the store in a process beside this one, which is waited for at the end.

    A job that reads files and texts before it trains leaves all cores but one idle. Where it is no job that others wait
    for, has one core, or has threads, which a fork does not take along, nothing is made ahead. Nor is anything said of
    what goes wrong: those who need the entry make it, or fail as they would have.

    Args:
        prepare: is called here before that, if there is such a process.
        ask: is called there, with one thread.
    """
    child = 0
    try:
        if SUPPORTED and AHEAD in os.environ and asked_threads() > 1:
            prepare()
            # A signal that comes now would be raised, and lost, in what Python calls after a fork.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                child = _fork(ask, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield
        if child and _has_ended(child, MOST):
            child = 0
    finally:
        if child:
            _end(child)


def _fork(ask: Callable[[], object], mask: set[signal.Signals | int]) -> int:
    """The id of the process that asks; 0 if there is none."""
    from threadpoolctl import threadpool_info, threadpool_limits

    parent = os.getpid()
    # OpenBLAS ends its own before a fork, and starts them again after it.
    idle = sum(one["num_threads"] - 1 for one in threadpool_info() if one["internal_api"] == "openblas")
    try:
        require_one_thread(but=idle)
        child = os.fork()
    except (OSError, RuntimeError):  # no more processes, other threads
        return 0
    if child:
        return child
    try:  # nothing leads from here back into the job
        end_with_parent()
        if os.getppid() == parent:  # else it ended before it could have told
            os.environ.pop(FILE_VARIABLE, None)  # the bar is that of the job
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")  # rather this one than the job
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            with threadpool_limits(1):
                ask()
    finally:
        os._exit(0)


def _has_ended(child: int, seconds: float) -> bool:
    """Wait so long for its end."""
    deadline = time.monotonic() + seconds
    with suppress(ChildProcessError):  # the kernel has it, where this process was started deaf to such ends
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def _end(child: int) -> None:
    """End it; what it was writing, the store drops later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(child, number)
        if _has_ended(child, GRACE):
            return
