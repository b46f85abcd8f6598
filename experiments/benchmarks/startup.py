"""Times what comes before the first step: of light commands, of a trial, of a study.

    python -m experiments.benchmarks.startup                  # into runs/benchmarks/startup.md and .json
    python -m experiments.benchmarks.startup --model smollm2 --repeats 5

Commands are started as a user starts them, from a store that holds the shared stages, so that what is timed is
imports, configuration, looking up stages, loading the model, and one small iteration.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.benchmarks.cases import ROOT
from experiments.benchmarks.machine import about, in_words
from rft.store.names import CURVES_FILE
from rft.store.running import LOCK

RFT = (sys.executable, "-m", "rft")
SMALL = (
    "task.train_prompts=32",
    "task.validation_prompts=4",
    "task.test_prompts=8",
    "task.ood_prompts=4",
    "task.sft_examples=64",
    "task.sft_validation_examples=8",
    "audit.pairs=0",
)
PPO = (
    "algorithm=ppo",
    "algorithm.iterations=2",
    "algorithm.prompts_per_iteration=4",
    "algorithm.minibatches=1",
    "evaluation.checkpoints=0",
)
TICK = 0.005  # seconds between two looks


class Watch:
    """Notes when each trial below a folder is marked as running, and when its first row of metrics is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: dict[str, float] = {}
        self.first: dict[str, float] = {}

    def look(self) -> None:
        """Take note of what is new."""
        for path in self.folder.glob(f"runs/*/*/{LOCK}"):
            self.begun.setdefault(path.parent.name, time.perf_counter())
        for path in self.folder.glob(f"runs/*/*/{CURVES_FILE}"):
            if path.stat().st_size:
                self.first.setdefault(path.parent.name, time.perf_counter())


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """While open, looks."""
    watch, over = Watch(folder), threading.Event()

    def run() -> None:
        while not over.wait(TICK):
            watch.look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def start(arguments: Sequence[str], folder: Path, store: Path, codes: Sequence[int] = (0,)) -> float:
    """Run a command to its end; how long it took, in seconds.

    Raises:
        SystemExit: with what it said, if it ends otherwise than it should.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RFT_STORE": str(store)}
    began = time.perf_counter()
    done = subprocess.run([*RFT, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode not in codes:
        sys.exit(f"rft {' '.join(arguments)}: ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return taken


def light(folder: Path, store: Path, repeats: int) -> dict[str, list[float]]:
    """Commands that compute nothing."""
    commands = {
        "rft --help": (["--help"], (0,)),
        "rft run --cfg job": (["run", "algorithm=ppo", "--cfg", "job"], (0,)),
        "a setting that there is not, refused": (["run", "algorithm=ppo", "algorithm.clip_rang=0.1"], (2,)),
    }
    return {
        name: [start(arguments, folder, store, codes) for _ in range(repeats)]
        for name, (arguments, codes) in commands.items()
    }


def heavy(folder: Path, store: Path, repeats: int, settings: Sequence[str]) -> dict[str, list[float]]:
    """Trials one by one, a study, and the same study when all of it is there."""
    start(["run", "until=reward_model", *settings], folder, store)
    found: dict[str, list[float]] = {name: [] for name in ("a trial, to its first iteration's end", "a trial, whole")}
    for seed in range(repeats):
        with watching(folder) as watch:
            began = time.perf_counter()
            found["a trial, whole"].append(start(["run", *PPO, f"seed={seed}", *settings], folder, store))
        (first,) = watch.first.values()
        found["a trial, to its first iteration's end"].append(first - began)
    study = ["run", "-m", *PPO, f"seed={seed_list(repeats)}", "study=many", "hydra.launcher.jobs=1", *settings]
    with watching(folder) as watch:
        began = time.perf_counter()
        start(study, folder, store)
    found["a study, to its first trial's first iteration's end"] = [min(watch.first.values()) - began]
    found["a trial of a study, to its first iteration's end"] = [
        watch.first[name] - watch.begun[name] for name in watch.first
    ]
    found["the same study, all of it there"] = [start(study, folder, store)]
    found["rft compare of it"] = [start(["compare", "many"], folder, store)]
    return found


def seed_list(repeats: int) -> str:
    """Seeds that no trial before had."""
    return ",".join(str(100 + seed) for seed in range(max(2, repeats)))


def table(found: dict[str, list[float]], machine: dict[str, Any]) -> str:
    """As Markdown: medians, and the quickest and the slowest."""
    lines = ["# Start-up", "", f"{in_words(machine)}.", "", "| what | s | from | to |", "| --- | --- | --- | --- |"]
    for name, taken in found.items():
        lines.append(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error("--repeats must be at least 1")
    machine = about(int(os.environ.get("RFT_THREADS") or os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = Path(scratch), Path(scratch) / "store"
        settings = [f"model={given.model}", "tracker=none", *SMALL]
        found = light(folder, store, given.repeats) | heavy(folder, store, given.repeats, settings)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "startup.json").write_text(json.dumps({"machine": machine, "seconds": found}, indent=1))
    text = table(found, machine)
    (given.out / "startup.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
