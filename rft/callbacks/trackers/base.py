"""What every tracker is: told who the run is, given rows with their steps, ended."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.config import TrackerConfig
from rft.errors import UserError

STEP = "trainer/global_step"
"""The optimiser's steps, where a tracker wants them among a row's metrics."""
LOCAL = 120.0
"""Seconds that a trial's end waits for a tracker that writes to this machine alone; none should take as long."""
REMOTE = 20.0
"""The same for one that needs a network."""


@dataclass(frozen=True, slots=True)
class Run:
    """Who a run is."""

    id: str
    """8 hex digits; of a trial that was killed and goes on, the same again."""
    study: str
    arm: str
    model: str
    seed: int
    stage: str
    """What it computes: `policy` for a trial."""
    tags: tuple[str, ...]
    folder: Path
    """Of the trial, itself in the study's."""
    config: Mapping[str, Any]
    """The resolved configuration, without secrets."""
    made: Mapping[str, Any]
    """Commit, machine and package versions, as `rft.machine.made_here` tells them."""
    resumed: bool = False
    """Whether a process before this one has told of it already: all its rows come again."""
    title: str = ""
    """What it is called, if it is no trial's."""
    notes: str = ""
    """A few sentences on what came out."""
    home: Path | None = None
    """The study's folder, if `folder` is not right below it."""
    anew: bool = False
    """Whether all of it is told at once: what this machine keeps of an earlier telling is replaced."""

    @property
    def name(self) -> str:
        """For people, as in ``ppo · smollm2 · s0``."""
        return self.title or f"{self.arm} · {self.model} · s{self.seed}"

    @property
    def study_folder(self) -> Path:
        """Where what all runs of the study share is kept."""
        return (self.home or self.folder.parent).absolute()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How a quantity is distributed over an iteration."""

    counts: tuple[int, ...]
    """Values in each bin."""
    edges: tuple[float, ...]
    """Of the bins, one more than these; the last bin has its upper edge in it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Files that a stage made, known by the store's key."""

    name: str
    """Of the thing, not of the version: ``sft``, ``preferences-1a2b3c4d``. Letters, digits, ``.``, ``_`` and ``-``."""
    kind: str
    """What it is: prompts, candidates, preferences, model, reward_model, policy, evaluation or report."""
    key: str
    """Of the store's entry, which is the version: equal keys are equal content."""
    files: Mapping[str, Path]
    """Name inside the artifact → file. Folders are listed by who tells of them."""
    metadata: Mapping[str, Any]
    """Stage, address and numbers of the entry, without secrets."""


class Tracker:
    """Base class of all trackers; what one cannot keep, it leaves out by not overriding the method.

    All methods are called from one thread that is not the training's (`rft.callbacks.trackers.behind`), in the order
    ``start``, any of the others, ``finish``. What they raise ends the tracker and not the trial.
    """

    patience = LOCAL
    """Seconds that a trial's end waits for ``finish``."""
    lineage = False
    """Whether artifacts can be followed in it from run to run."""
    config: Any = None
    """Its settings."""

    @property
    def kept(self) -> TrackerConfig:
        """What it is told besides metrics; of a tracker whose settings do not say, the defaults."""
        return self.config if isinstance(self.config, TrackerConfig) else TrackerConfig()

    @property
    def told_of_stages(self) -> bool:
        """Whether each stage that a study's trials share has a run in it."""
        return self.lineage and self.kept.artifacts and self.kept.stages

    def by_reference(self, path: Path) -> bool:
        """Whether a file is too large to be copied."""
        return path.stat().st_size > self.kept.artifact_mb * 1e6

    def parts(self) -> Sequence[Tracker]:
        """The trackers that are told; several, one, or none."""
        return [self]

    def start(self, run: Run) -> None:
        """Begin the run, or go on with it."""
        raise TypeError(f"{type(self).__name__} must define start()")

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Keep one row of metrics.

        Args:
            row: name → value; names are the same for every algorithm.
            step: the optimiser's steps so far. Rows come in the order of their steps; of a run that was resumed, those
                that it has already come again.
        """
        raise TypeError(f"{type(self).__name__} must define log()")

    def uses(self, artifact: Artifact) -> None:
        """Keep what the run was made from."""

    def makes(self, artifact: Artifact) -> None:
        """Keep what came out of the run."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Keep a table, such as the samples of an evaluation."""

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Keep the distribution of a quantity; told before the row of the same step."""

    def figure(self, name: str, path: Path, step: int) -> None:
        """Keep a picture, a PNG file."""

    def html(self, name: str, path: Path, step: int) -> None:
        """Keep a page, an HTML file that needs no other."""

    def text(self, name: str, text: str) -> None:
        """Keep a sentence among what sums up the run; a later one of the same name replaces it."""

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """End the run; called however the trial ended.

        Args:
            metrics: of the final test, empty if there was none; they belong to the last step.
            failed: whether the trial did.
        """
        raise TypeError(f"{type(self).__name__} must define finish()")


def require(package: str, extra: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"tracker={extra}: the package {package} is not installed; pip install 'rft[{extra}]'")


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found
