"""What the report is made from: the trials of a study, what each used, and those that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rft.report.checkpoints import Checkpoint
from rft.report.rows import Rows
from rft.store import Entry
from rft.store.entry import file_sha256

SPLIT_ORDER = ("test", "ood", "validation", "train")


@dataclass(frozen=True, slots=True)
class StageUse:
    """A stage's result as one trial used it; seconds, cpu_seconds and peak_rss_bytes are of computing it.

    `entry` is None if the store no longer has the result: its numbers are then missing, the trial's are not.
    """

    key: str
    digest: str
    seconds: float
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    computed: bool
    entry: Entry | None = None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the stage measured about its own result; empty if that is not known."""
        return self.entry.metrics if self.entry else {}

    def file(self, name: str) -> Path | None:
        """A small file of the result; None if it is not there or not what the stage wrote."""
        if self.entry is None or name not in self.entry.manifest["files"]:
            return None
        path = self.entry.path / name
        try:
            sound = file_sha256(path) == self.entry.manifest["files"][name]["sha256"]
        except OSError:
            return None
        return path if sound else None


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished (arm, seed) with its rows by split."""

    arm: str
    algorithm: str
    seed: int
    stages: Mapping[str, StageUse]
    rows: Mapping[str, Rows]
    overrides: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Entry | None = None
    folder: str = ""
    """Its folder's path below the study's."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """What was evaluated on the way, by split and step."""
    made: Mapping[str, Any] | None = None
    """Commit and machine of the process that computed its results, as its record says; None in an old one."""


@dataclass(frozen=True, slots=True)
class FailedTrial:
    """A trial that is in no number of the report, and why."""

    arm: str
    seed: int | None
    folder: str
    error: str


@dataclass(frozen=True)
class StudyResults:
    """All trials of a study, sorted by (arm, seed), and those left out."""

    study: str
    trials: tuple[Trial, ...]
    failed: tuple[FailedTrial, ...]
    warnings: tuple[str, ...] = ()
    """What a reader has to know besides `failed`, a sentence each."""
    incomplete: Mapping[str, Any] | None = None
    """What is not there yet of what the study plans: ``{"planned", "finished", "running", "missing"}``; a sentence of
    `warnings` says it."""
    tuning: Mapping[str, Any] | None = None
    """What tuning tried and found, as in the summary; None if no arm was tuned."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that every trial was evaluated on: test first, then ood, then the others."""
        common = set.intersection(*(set(trial.rows) for trial in self.trials))
        return tuple(sorted(common, key=lambda s: (SPLIT_ORDER.index(s) if s in SPLIT_ORDER else 9, s)))

    @cached_property
    def _arms(self) -> Mapping[str, tuple[Trial, ...]]:
        arms: dict[str, list[Trial]] = {}
        for trial in self.trials:
            arms.setdefault(trial.arm, []).append(trial)
        return {arm: tuple(trials) for arm, trials in arms.items()}

    def arm(self, name: str) -> tuple[Trial, ...]:
        """The trials of an arm by seed."""
        return self._arms.get(name, ())
