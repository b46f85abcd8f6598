"""Who runs trials: a lock file for each launcher, which the kernel frees when its process ends, however that comes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rft.store.locking import file_lock

FOLDER = ".launchers"
REPAIR = "ledger.lock"
"""Beside the launchers' files: held while the ledger is made or mended."""


@contextmanager
def owner(study: Path) -> Iterator[str]:
    """Be a launcher of a study until the block, or the process, ends; gives its name.

    Args:
        study: the study's folder.
    """
    name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    path = study / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, 60):
        try:
            yield name
        finally:
            with suppress(OSError):  # a disk that became read-only keeps it; nobody holds it any more
                path.unlink(missing_ok=True)


def is_alive(study: Path, name: str) -> bool:
    """Whether the launcher of this name still holds its lock."""
    import filelock

    path = study / FOLDER / name
    if not path.exists():
        return False
    try:
        # Taken for a moment; whoever asks at that moment holds the launcher for alive, and asks again.
        with file_lock(path, 0):
            path.unlink(missing_ok=True)
            return False
    except filelock.Timeout:
        return True
    except OSError:  # a folder that can only be read: nobody launches there
        return False


def launchers(study: Path) -> list[str]:
    """The launchers of a study that are alive."""
    folder = study / FOLDER
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name != REPAIR and is_alive(study, name)]
