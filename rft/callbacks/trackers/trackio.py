"""Trackio: its sqlite file in a folder beside the study's trials."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.callbacks.trackers.base import Artifact, Histogram, Run, Tracker, flat, require
from rft.config import TrackerConfig


@dataclass
class Config(TrackerConfig):
    """Settings of the Trackio tracker."""

    project: str | None = None
    """Trackio's project; null: the study's name."""


class Trackio(Tracker):
    """One run a trial, in the project of its study; ``TRACKIO_DIR=runs/STUDY/trackio trackio show`` shows them."""

    def __init__(self, config: Config) -> None:
        require("trackio", "trackio")
        self.config = config
        self._run: Any = None
        self._step = 0
        self._known: set[int] = set()

    def start(self, run: Run) -> None:
        """Begin a run, or go on with the one of the same id."""
        os.environ["TRACKIO_DIR"] = str(run.study_folder / "trackio")  # read when it is imported
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        _quiet(trackio)
        project, name = self.config.project or run.study, f"{run.name} · {run.id}"
        told = flat({**run.config, "made": run.made, "tags": list(run.tags), "stage": run.stage})
        given: dict[str, Any] = {
            "group": run.arm,
            "config": told,
            "embed": False,
            "auto_log_gpu": None,
            "auto_log_cpu": None,
        }
        self._run = trackio.init(project, name=name, resume="allow", **given)
        if run.resumed:
            kept = SQLiteStorage.get_logs(project, name, run_id=self._run.id)
            # A histogram is told before its row, which the process may not have come to.
            self._known = {int(row["step"]) for row in kept if "time/seconds" in row}

    def log(self, row: Mapping[str, float], step: int) -> None:
        """A row, unless the run has it."""
        self._step = step
        if step not in self._known:
            self._run.log(dict(row), step=step)

    def uses(self, artifact: Artifact) -> None:
        """The artifact as an input; kept first if no run of the project has, which makes it that run's output too."""
        try:
            self._run.use_artifact(f"{artifact.name}:{artifact.key[:16]}")
        except ValueError:  # there is none
            self._run.use_artifact(self._keep(artifact))

    def makes(self, artifact: Artifact) -> None:
        """The artifact as an output; of the same content there is one version."""
        self._keep(artifact)

    def _keep(self, artifact: Artifact) -> Any:
        import trackio

        kept = trackio.Artifact(artifact.name, type=artifact.kind, metadata=dict(artifact.metadata))
        for name, path in artifact.files.items():
            if self.by_reference(path):
                kept.add_reference(path.absolute().as_uri(), name=name)
            else:
                kept.add_file(path, name=name)
        return self._run.log_artifact(kept, aliases=[artifact.key[:16]])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table."""
        import trackio

        self._run.log({name: trackio.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """A histogram with its own bins, unless the run has the row."""
        import trackio

        if step not in self._known:
            self._run.log({name: trackio.Histogram(np_histogram=(histogram.counts, histogram.edges))}, step=step)

    def figure(self, name: str, path: Path, step: int) -> None:
        """A picture."""
        import trackio

        self._run.log({name: trackio.Image(str(path))}, step=step)

    def html(self, name: str, path: Path, step: int) -> None:
        """A page."""
        import trackio

        self._run.log({name: trackio.Html(path)}, step=step)

    def text(self, name: str, text: str) -> None:
        """A text, as it stands."""
        import trackio

        self._run.log({name: trackio.Markdown(text)}, step=self._step)

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Keep the final test's metrics; it has no mark for a run that failed."""
        if self._run is not None:
            if metrics:
                self._run.log(dict(metrics), step=self._step)
            self._run.finish()


def _silent(*_values: object, **_settings: object) -> None:
    """In place of ``print``."""


def _quiet(trackio: Any) -> None:
    """Let its modules print nothing; redirecting the stream would take the lines of other threads too."""
    from trackio import run, utils

    for module in (trackio, run, utils):
        vars(module)["print"] = _silent
