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
            told = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
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
                    marker.parent.mkdir(parents=True, exist_ok=True)
                    marker.write_text(
                        json.dumps({"error": str(error), "seconds": seconds, "version": __version__}), encoding="utf-8"
                    )
                raise

        return once

    return decorate


def lost(folder: Path) -> dict[str, float]:
    """Seconds of training that came to nothing in a trial's folder, by address."""
    return {
        file.stem: float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
        for file in sorted(folder.glob(f"checkpoints/*{SUFFIX}"))
    }
