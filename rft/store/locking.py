"""Locks that the kernel frees when their process ends, however that comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def file_lock(path: Path | str, timeout: float = -1) -> BaseFileLock:
    """A lock on a file, which two processes never hold at once.

    Where a file system has no locks it is refused: a file whose presence alone says "locked" would outlive a process
    that was killed, and stop all others for ever.

    Args:
        path: of the file, made if it is not there.
        timeout: seconds to wait for it; below 0: as long as it takes.

    Raises:
        OSError: when it is taken, if the file system has no locks.
        filelock.Timeout: when it is taken, if another process holds it so long.
    """
    import filelock

    return filelock.FileLock(path, timeout, fallback_to_soft=False)
