"""The mark of a trial that is running: a lock in its folder, which the kernel frees when its process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rft.store.locking import file_lock

LOCK = ".running"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Mark a trial as running until the block, or its process, ends: the kernel frees the lock of a killed one."""
    import filelock

    if int(os.environ.get("LOCAL_RANK", "0")) > 0:  # a further process of a trial: the first one marks it
        yield
        return
    lock = file_lock(folder / LOCK, 1)
    with suppress(filelock.Timeout):  # another process runs the same trial: it is marked
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_running(folder: Path, lock: str = LOCK) -> bool:
    """Whether a process is at work on the trial of this folder, or holds another lock there."""
    import filelock

    if not (folder / lock).exists():
        return False
    try:
        with file_lock(folder / lock, 0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # a folder that can only be read: nobody writes a trial there
        return False
