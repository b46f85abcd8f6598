"""Tells a tracker of one run, as a trial does, in a process of its own.

``python -m tests.tracked_run JSON`` with ``overrides`` (which tracker), ``folder``, ``rows`` (each with its ``step``),
and optionally ``resumed``, ``metrics``, ``failed`` and ``end`` (false: the process ends as one that is killed); of what
is no metric, ``uses`` and ``makes`` (artifacts), ``histograms`` at each row, and ``tables``, ``figures``, ``pages`` and
``texts``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rft.callbacks.trackers.base import Artifact, Tracker

REPOSITORY = Path(__file__).parents[1]


def told(
    folder: Path,
    overrides: Sequence[str],
    rows: Sequence[Mapping[str, float]],
    environment: Mapping[str, str] = {},
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    """Start the process and wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    task = {"overrides": list(overrides), "folder": str(folder), "rows": list(rows), **more}
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "tests.tracked_run", json.dumps(task)]
    return subprocess.run(command, cwd=folder.parent, env=env, capture_output=True, text=True, check=True)


def artifact(told: Mapping[str, Any]) -> Artifact:
    """One that stands for some files."""
    from rft.callbacks.trackers.base import Artifact

    files = {name: Path(path) for name, path in told["files"].items()}
    return Artifact(told["name"], told["kind"], told["key"], files, {"stage": told["kind"]})


def show(tracker: Tracker, task: Mapping[str, Any], step: int) -> None:
    """Tell of results, as a trial does at its end."""
    for name, (columns, rows) in task.get("tables", {}).items():
        tracker.table(name, columns, rows, step)
    for name, path in task.get("figures", {}).items():
        tracker.figure(name, Path(path), step)
    for name, path in task.get("pages", {}).items():
        tracker.html(name, Path(path), step)
    for name, text in task.get("texts", {}).items():
        tracker.text(name, text)
    for one in task.get("makes", ()):
        tracker.makes(artifact(one))


def main(task: Mapping[str, Any]) -> None:
    """Do as told; prints how long it waited for rows and for the end."""
    from rft.callbacks.trackers.base import Histogram, Run
    from rft.callbacks.trackers.behind import Behind
    from rft.config import build, compose
    from rft.machine import made_here
    from rft.secrets import without_secrets
    from rft.study.parts import plain

    cfg = compose(task["overrides"])
    tracker = Behind(build(cfg.tracker).parts())
    run = Run(
        id="0123abcd",
        study="study",
        arm="ppo",
        model="smollm2",
        seed=0,
        stage="policy",
        tags=("ppo", "seed-0"),
        folder=Path(task["folder"]).absolute(),
        config=without_secrets(plain(cfg)),
        made=made_here(),
        resumed=bool(task.get("resumed")),
    )
    begun = time.monotonic()
    tracker.start(run)
    for one in task.get("uses", ()):
        tracker.uses(artifact(one))
    for row in task["rows"]:
        for name, (counts, edges) in task.get("histograms", {}).items():
            tracker.histogram(name, Histogram(tuple(counts), tuple(edges)), int(row["step"]))
        tracker.log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
        time.sleep(float(task.get("pause", 0)))
    show(tracker, task, int(task["rows"][-1]["step"]))
    waited = time.monotonic()
    if task.get("end", True):
        tracker.finish(task.get("metrics", {}), bool(task.get("failed")))
    else:
        while any(one._jobs.qsize() for one in tracker._workers):
            time.sleep(0.05)
        time.sleep(1.0)  # the last row is on its way
    print(json.dumps({"rows": waited - begun, "end": time.monotonic() - waited}), flush=True)
    if not task.get("end", True):
        os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
