"""TensorBoard: event files beside the trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rft.callbacks.trackers.base import Run, Tracker, require
from rft.machine import uncommitted

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class Config:
    """Settings of the TensorBoard tracker."""

    folder: str = "tensorboard"
    """Where in the trial's folder the event files are: `tensorboard --logdir runs/STUDY` shows all trials."""

    def conflict(self) -> str | None:
        """Refuse a folder outside of the trial's."""
        if not self.folder or self.folder.startswith("/") or ".." in self.folder.split("/"):
            return f"folder={self.folder}: must be a name below the trial's folder"
        return None


class TensorBoard(Tracker):
    """Writes scalars as 64-bit floats, the configuration as text, and histograms."""

    def __init__(self, config: Config) -> None:
        require("tensorboard", "tensorboard")
        self.config = config
        self._writer: SummaryWriter | None = None
        self._step = 0

    @property
    def writer(self) -> SummaryWriter:
        """The open event file."""
        assert self._writer is not None
        return self._writer

    def start(self, run: Run) -> None:
        """Open an event file; of a run that is resumed, whose rows all come again, in place of the former one.

        Told where it begins again, not all readers forget what came before.
        """
        from torch.utils.tensorboard import SummaryWriter

        place = run.folder / self.config.folder
        for former in place.glob("events.out.tfevents.*") if run.resumed else ():
            former.unlink()
        self._writer = SummaryWriter(str(place))
        told = {"run": run.name, "study": run.study, "tags": run.tags, "made": run.made, "config": run.config}
        self.writer.add_text("run", f"```json\n{json.dumps(told, indent=1, ensure_ascii=False, default=str)}\n```", 0)
        if diff := uncommitted():
            self.writer.add_text("diff", f"```diff\n{diff}\n```", 0)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        self._step = step
        for name, value in row.items():
            self.writer.add_scalar(name, value, step, new_style=True, double_precision=True)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """A histogram."""
        import numpy as np

        self.writer.add_histogram(name, np.asarray(values), step)

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Write all and close."""
        if self._writer is not None:
            self.log(metrics, self._step)
            self.writer.close()
