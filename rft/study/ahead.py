"""What the jobs of a later wave need, made beside the first job of a study while that leaves a core idle."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rft.progress import FILE_VARIABLE
from rft.runtime import asked_threads, end_with_parent
from rft.study.forks import SUPPORTED
from rft.study.warm import require_one_thread

AHEAD = "RFT_AHEAD"
"""Environment variable of a job that others wait for, and that has cores to itself."""


@contextmanager
def made_ahead(ask: Callable[[], object]) -> Iterator[None]:
    """Ask for an entry of the store in a process beside this one, which is waited for at the end.

    A job that reads files and texts before it trains leaves all cores but one idle. Where it is no job that others wait
    for, has one core, or has threads, which a fork does not take along, nothing is made ahead. Nor is anything said of
    what goes wrong: those who need the entry make it, or fail as they would have.

    Args:
        ask: is called in the other process, with one thread.
    """
    child = _fork(ask) if AHEAD in os.environ and asked_threads() > 1 else 0
    try:
        yield
    except BaseException:
        if child:
            os.kill(child, signal.SIGTERM)
        raise
    finally:
        if child:
            os.waitpid(child, 0)


def _fork(ask: Callable[[], object]) -> int:
    """The id of the process that asks; 0 if there is none."""
    if not SUPPORTED:
        return 0
    from threadpoolctl import threadpool_info, threadpool_limits

    parent = os.getpid()
    # OpenBLAS ends its own before a fork, and starts them again after it.
    idle = sum(one["num_threads"] - 1 for one in threadpool_info() if one["internal_api"] == "openblas")
    # One that comes now would be raised, and lost, in what Python calls after a fork.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        require_one_thread(but=idle)
        child = os.fork()
    except (OSError, RuntimeError):  # no more processes, other threads
        child = -1
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if child:
        return max(child, 0)
    code = 1
    try:
        end_with_parent()
        if os.getppid() != parent:  # it ended before it could have told
            os._exit(code)
        os.environ.pop(FILE_VARIABLE, None)  # the bar is that of the job
        with threadpool_limits(1):
            ask()
        code = 0
    finally:
        os._exit(code)
