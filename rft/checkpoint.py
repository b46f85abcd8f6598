"""How checkpoints are written: beside and renamed, so that the last one is whole whenever the process dies."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes in the checkpoint's own folder.

    Lightning's own way goes through the system's temporary folder: from another disk the file is copied over the
    checkpoint before, and a kill or a full disk in the middle of that leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` as `write_whole` does."""
        # By way of memory: writing to a file itself, torch hides the system's error.
        data = io.BytesIO()
        torch.save(checkpoint, data)
        write_whole(Path(path), data.getbuffer())


def write_whole(target: Path, data: bytes | memoryview) -> None:
    """Write a file beside its place, then rename it.

    Raises:
        OSError: naming `target`, for instance if its disk is full; what was there stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        beside.unlink(missing_ok=True)
