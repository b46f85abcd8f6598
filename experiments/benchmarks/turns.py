"""The worker's end of the pipe: wait to be told, do a step, tell how long it took.

A worker writes one JSON line when it is ready and one a step; all else that its libraries print goes to stderr. It
reads ``step`` or ``profile``, and ends when its input ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from experiments.benchmarks.cases import Job


def peak_bytes() -> int:
    """The most memory of this process that was resident at once.

    Linux's own mark is read where it is there: ``ru_maxrss`` begins at what the parent held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Turns:
    """Between two calls of ``boundary`` lies one step.

    Args:
        tokens: of a step, unless the step itself says otherwise.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.parts: dict[str, float] = {}
        """Seconds of parts of a step, where they are known apart."""
        self._started: float | None = None
        self._profile: Any = None
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, **facts: Any) -> None:
        """One line to whoever started this process."""
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()

    def boundary(self) -> None:
        """A step has ended, unless none has begun; wait until the next one may begin."""
        now = time.perf_counter()
        if self._started is None:
            self.tell(ready=True, versions=versions())
        else:
            facts: dict[str, Any] = {"seconds": now - self._started, "tokens": self.tokens, "parts": self.parts}
            if self._profile is not None:
                from experiments.benchmarks.costs import largest_costs

                self._profile.__exit__(None, None, None)
                facts["costs"] = largest_costs(self._profile)
                self._profile = None
            self.tell(**facts, peak_bytes=peak_bytes())
        command = sys.stdin.readline().strip()
        if not command:
            os._exit(0)  # from the midst of somebody's training loop, which has nothing to keep
        if command == "profile":
            import torch

            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self._profile.__enter__()
        self._started = time.perf_counter()

    def repeat(self, step: Callable[[], None]) -> NoReturn:
        """Do a step that nobody else's loop calls, for as long as is asked."""
        while True:
            self.boundary()
            step()


def versions() -> dict[str, str]:
    """Of what is imported and matters here."""
    names = ("torch", "transformers", "peft", "trl", "lightning")
    return {name: str(sys.modules[name].__version__) for name in names if name in sys.modules}


def job() -> Job:
    """What this worker was started for."""
    return Job.heard(json.loads(sys.argv[1]))
