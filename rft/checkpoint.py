"""Checkpoints of training: the last two of a folder, each written beside and renamed, with its sum in its name."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from rft.store.entry import file_sha256
from rft.store.space import FULL
from rft.store.whole import write_whole

logger = logging.getLogger(__name__)

KEPT = 2  # one may be damaged
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.ckpt")


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint's file: optimiser steps made, and how its sha256 began when it was written."""

    path: Path
    step: int
    sum: str

    def fault(self) -> str | None:
        """Why its bytes are not those that were written, or None."""
        try:
            return None if file_sha256(self.path).startswith(self.sum) else "does not match the sha256 in its name"
        except OSError as error:
            return f"cannot be read ({error.strerror})"


def kept(folder: Path) -> list[Kept]:
    """The checkpoints of a folder, the furthest first: by their steps, for a file's time says what a clock said."""
    if not folder.is_dir():
        return []
    matches = [(path, NAME.fullmatch(path.name)) for path in folder.iterdir()]
    found = [Kept(path, int(match[1]), match[2]) for path, match in matches if match]
    return sorted(found, key=lambda one: (one.step, one.path.name), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; no code in it is run."""
    found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return found


def last_good(folder: Path, unfit: Callable[[dict[str, Any]], str | None]) -> Path | None:
    """The furthest checkpoint of a folder that is whole and fit to go on from; None to begin anew.

    One warning names those that are damaged, and what is done instead.

    Args:
        folder: of one training.
        unfit: what is wrong with what a checkpoint names; "" if it is only of no use now, None if it can be taken.
    """
    faults: list[str] = []
    chosen: Path | None = None
    for one in kept(folder):
        fault = one.fault()
        fault = unfit(load(one.path)) if fault is None else fault
        if fault is None:
            chosen = one.path
            break
        if fault:
            faults.append(f"{one.path} {fault}")
    if faults and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        instead = f"goes on from {chosen.name}, the one before" if chosen else "begins anew"
        logger.warning("damaged checkpoint: %s; training %s", "; ".join(faults), instead)
    return chosen


class LastCheckpoints(TorchCheckpointIO):
    """Writes into the folder that it is given for a path, and keeps the last two there.

    Lightning's own way goes through the system's temporary folder: from another disk the file is copied over the
    checkpoint before, and a kill or a full disk in the middle of that leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint, then remove those that are not kept.

        Raises:
            OSError: as :func:`write_whole`; of those before, the last is still there.
        """
        # By way of memory: writing to a file itself, torch hides the system's error.
        data = io.BytesIO()
        torch.save(checkpoint, data)
        content, step, folder = data.getbuffer(), int(checkpoint["global_step"]), Path(path)
        target = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.ckpt"
        before = [one for one in kept(folder) if one.step < step]
        try:
            write_whole(target, content)
        except OSError as error:
            if error.errno not in FULL or len(before) < KEPT:
                raise
            before.pop().path.unlink()  # a disk with room for two goes on with two
            write_whole(target, content)
        # What is as far or further is damaged, or of a run that began anew.
        stay = {target, *(one.path for one in before[: KEPT - 1])}
        for one in kept(folder):
            if one.path not in stay:
                one.path.unlink()
