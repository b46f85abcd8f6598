"""What a piece of work cost this process."""

from __future__ import annotations

import os
import resource
import sys
import time

from rft.store.canonical import Json

COST = "cost"
"""Among the metrics that a stage returns: what of its cost it measured itself. Kept with the cost, not with them."""


class Clock:
    """Cost of what runs between its making and ``read``."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()
        self._cpu = self._cpu_seconds()

    def read(self) -> dict[str, Json]:
        """``seconds``, ``cpu_seconds`` (with ended children) and ``peak_rss_bytes`` of the process so far."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "seconds": round(time.perf_counter() - self._seconds, 3),
            "cpu_seconds": round(self._cpu_seconds() - self._cpu, 3),
            "peak_rss_bytes": peak * unit,
        }

    @staticmethod
    def _cpu_seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system
