"""What a launcher runs: a trial, or a stage that trials share, as a process of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft.config import quoted
from rft.store.names import TRIAL
from rft.study.rows import Row
from rft.study.slots import Demand

LAUNCHED = "RFT_LAUNCHED"
"""Environment variable of a trial that a launcher has started, and writes into the ledger."""
AHEAD = "RFT_AHEAD"
"""Environment variable of a job that others wait for: a core that it leaves idle may make what those need."""
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class Job:
    """One process: ``rft run`` with these overrides."""

    name: str
    overrides: tuple[str, ...]
    folder: Path
    forks: bool = True
    """Whether it may start as a fork."""
    arm: str = ""
    """The arm that it belongs to."""
    seed: int | None = None
    """The trial's seed; None for a stage that trials share."""
    demand: Demand | None = None
    """What it takes; None: by its strategy."""
    strategy: Mapping[str, Any] | None = field(default=None, compare=False)
    """Its settings of that group; None: not known, so it takes its part of the cores."""
    after: Collection[Path] = field(default=(), compare=False)
    """Folders of the jobs that must have ended before it starts, if they are run with it."""

    @property
    def arguments(self) -> list[str]:
        """Of the command line."""
        return ["run", *self.overrides, f"hydra.run.dir={quoted(str(self.folder))}"]

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder / "log.txt"


def row_of(name: str, job: Job) -> Row:
    """A job as it is put into the ledger."""
    named = TRIAL.fullmatch(name)
    identity = name[-8:] if named else ""
    return Row(name, identity, job.arm, job.seed, job.overrides, forks=job.forks, demand=job.demand)


def may_fork(strategy: Mapping[str, Any]) -> bool:
    """Whether a trial with these settings may start as a fork; in doubt it starts plainly.

    A trial of several processes starts the others from nothing anyway. A GPU's driver that was asked anything does not
    work in a fork, and on a machine that has one any library may ask.
    """
    alone = (strategy.get("distribution"), strategy.get("devices")) == ("single", 1)
    return alone and (strategy.get("accelerator") == "cpu" or not has_gpu())


def has_gpu() -> bool:
    """Whether this machine has a GPU, by its driver's files."""
    return any(Path(x).exists() for x in GPUS)
