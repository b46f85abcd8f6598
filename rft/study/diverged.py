"""Training that diverged would diverge again: it is remembered beside its checkpoints and not repeated."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rft import __version__
from rft.errors import TrainingDiverged
from rft.store.whole import write_whole

Make = Callable[[Path | None], Mapping[str, Any]]
SUFFIX = ".diverged"


def diverges_once(checkpoints: Path) -> Callable[[Make], Make]:
    """Let training that has diverged say so at once when it is asked for again.

    Args:
        checkpoints: the folder of its checkpoints, whose name is the address of the result: other settings, another
            seed or other code of a plugin have another one. Another version of rft tries again.
    """
    marker = checkpoints.with_name(checkpoints.name + SUFFIX)

    def decorate(make: Make) -> Make:
        @functools.wraps(make)
        def once(out: Path | None) -> Mapping[str, Any]:
            told = _read(marker)
            if told.get("version") == __version__:
                if out is not None:
                    sys.stderr.write(f"it diverged before and is not trained again; remove {marker} to do so\n")
                raise TrainingDiverged(told["error"])
            start = time.monotonic()
            try:
                return make(out)
            except TrainingDiverged as error:
                if out is not None:  # the other ranks help, and keep nothing
                    seconds = round(time.monotonic() - start, 3)
                    told = {"error": str(error), "seconds": seconds, "version": __version__}
                    write_whole(marker, json.dumps(told).encode())
                raise

        return once

    return decorate


def lost(folder: Path) -> dict[str, float]:
    """Seconds of training that came to nothing in a trial's folder, by address."""
    markers = {file.stem: _read(file) for file in sorted(folder.glob(f"checkpoints/*{SUFFIX}"))}
    return {name: float(told["seconds"]) for name, told in markers.items() if told}


def _read(marker: Path) -> dict[str, Any]:
    """What a marker says; nothing if there is none, or it is damaged: then it is trained again."""
    try:
        told = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.keys() >= {"error", "seconds", "version"} else {}
