"""Kills a trial, tells from what it left what it was at, and compares its end with that of a run left alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.store.whole import UNFINISHED
from rft.study.pipeline import STAGES
from tests.integration.harness import Result, Warm, tracked

# Of a tracked row, what tells the time, and where its tables are.
CLOCKS = ("time/", "budget/money", "_timestamp", "_runtime", "_wandb", "samples_")
SHARED = frozenset(("questions", "gold", "annotators", *STAGES)) - {"policy", "evaluation"}
MADE = ("model", "questions", "gold", "annotators", *STAGES)  # in about the order in which a trial asks for them


def only_assets(asset: Path, store: Path) -> Path:
    """A store with nothing but the assets, which no test changes: they are links."""
    shutil.copytree(asset, store / "asset", copy_function=os.link)
    return store


def trial_of(cwd: Path) -> Path | None:
    """The folder of the one trial under a folder, if it has begun."""
    found = {path.parent for path in (cwd / "runs").rglob(".running")}
    assert len(found) <= 1, found
    return found.pop() if found else None


@dataclass
class Trial:
    """One trial: what is run, where, and in which store."""

    command: Sequence[str]
    cwd: Path
    store: Path

    def __post_init__(self) -> None:
        self.cwd.mkdir(parents=True, exist_ok=True)

    @property
    def result(self) -> Result:
        """What it left."""
        folder = trial_of(self.cwd)
        assert folder is not None
        return Result(folder, self.store)

    def killed(self, warm: Warm, after: float, written: int = 0, **more: str | None) -> str | None:
        """Run it and kill it some seconds after so many checkpoints were written; returns what it was at.

        None: it had ended before.
        """
        before, there = self._unfinished(), self._checkpoints()
        warm.start(self.command, self.cwd, self.store, **more)
        while len(there) < written and warm.running:
            time.sleep(0.002)
            there |= self._checkpoints()
        time.sleep(after)
        warm.kill()
        outcome = warm.wait()
        if outcome.code == 0:
            return None
        assert outcome.code == -signal.SIGKILL, outcome.stderr
        return self.moment(before)

    def _checkpoints(self) -> set[str]:
        return {path.name for path in self.cwd.glob("runs/*/*/checkpoints/*/step-*.ckpt")}

    def _unfinished(self) -> set[Path]:
        """What is being written, or was when a process was killed."""
        found = set((self.store / "tmp").glob("*.*"))
        if folder := trial_of(self.cwd):
            found |= {path for path in folder.glob("checkpoints/*/.*") if UNFINISHED.fullmatch(path.name)}
        return found

    def moment(self, before: set[Path]) -> str:
        """What a process was at when it was killed, from what it left unfinished."""
        folder, left = trial_of(self.cwd), self._unfinished() - before
        names = {path.name.partition(".")[0]: path for path in left if path.parent.name == "tmp"}
        if not names:
            if folder is None or not (self.store / "tmp").is_dir():
                return "start-up"
            done = [stage for stage in MADE if list((self.store / stage).glob("*"))]
            return "after the last entry" if done[-1:] == ["evaluation"] else "start-up, or between stages"
        stage = max(names, key=MADE.index)
        if (names[stage] / "manifest.json").exists():
            return f"{stage}: sealed, not in place"
        if stage != "policy":
            return stage
        if any(path.name.startswith(".step-") for path in left):
            return "policy: a checkpoint"
        if any(path.name.startswith(".policy-") for path in left):
            return "policy: a snapshot"
        if list(names[stage].iterdir()):
            return "policy: its files"
        assert folder is not None
        begun = list(folder.glob("checkpoints/*/step-*.ckpt"))
        return "policy: after a checkpoint" if begun else "policy: before the first checkpoint"


def assert_same(trial: Result, reference: Result) -> None:
    """Weights, metrics, snapshots and rows are the same to the bit, and so is what every stage says of itself."""
    assert trial.digests == reference.digests
    for name in ("policy.safetensors", "history.json", "snapshots.json"):
        assert (trial.entry("policy") / name).read_bytes() == (reference.entry("policy") / name).read_bytes()
    for name in ("evaluation.parquet", "checkpoints.parquet"):
        assert (trial.entry("evaluation") / name).read_bytes() == (reference.entry("evaluation") / name).read_bytes()
    for stage in reference.digests:
        assert metrics_of(trial, stage) == metrics_of(reference, stage), stage
    assert settled(trial.record) == settled(reference.record)
    assert not list(trial.folder.glob("checkpoints/*"))
    assert not list((trial.store / "tmp").iterdir())


def metrics_of(trial: Result, stage: str) -> dict[str, Any]:
    """What a stage's entry says of itself, without times."""
    from rft.store.entry import Entry, load

    found = load(stage, trial.entry(stage))
    assert isinstance(found, Entry), found
    return dict(found.metrics)


def settled(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what says which process computed a stage, on what and in which time."""
    stages = {name: (stage["key"], stage["digest"]) for name, stage in record["stages"].items()}
    return {name: value for name, value in record.items() if name != "made"} | {"stages": stages}


def assert_tracked(trial: Result, reference: Result) -> None:
    """All parts of the trial's tracked run have one id; each row is the uninterrupted one's, and none is lacking."""
    parts, wanted = tracked(trial.folder), rows_by_step(tracked(reference.folder)[0])
    assert len({record["run"]["run_id"] for part in parts for record in part if record["type"] == "run"}) == 1
    found: dict[float, dict[str, Any]] = {}
    for part in parts:
        for step, row in rows_by_step(part).items():
            assert row == wanted[step], step
            found[step] = row
    assert found.keys() == wanted.keys()


def rows_by_step(run: Sequence[Mapping[str, Any]]) -> dict[float, dict[str, Any]]:
    """The training's rows of a tracked run, without times."""
    items = [record["history"]["item"] for record in run if record["type"] == "history"]
    return {
        item["_step"]: {name: value for name, value in item.items() if not name.startswith(CLOCKS)}
        for item in items
        if "train/loss" in item
    }
