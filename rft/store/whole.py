"""Files that are whole or absent, whenever the process that writes them dies."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

UNFINISHED = re.compile(r"\..+\.\d+")


def write_whole(target: Path, data: bytes | memoryview) -> None:
    """Write a file beside its place, see it onto the disk, then rename it.

    Raises:
        OSError: naming `target`, for instance if its disk is full; what was there stays.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with suppress(OSError):  # a disk that became read-only keeps it
            beside.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what a process that was killed had not finished writing."""
    for path in folder.glob(".*"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
