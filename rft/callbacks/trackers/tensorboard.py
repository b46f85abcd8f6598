"""TensorBoard: event files beside the trial."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.callbacks.trackers.base import Artifact, Histogram, Run, Tracker, require
from rft.config import TrackerConfig
from rft.machine import uncommitted

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class Config(TrackerConfig):
    """Settings of the TensorBoard tracker."""

    folder: str = "tensorboard"
    """Where in the trial's folder the event files are: `tensorboard --logdir runs/STUDY` shows all trials."""

    def conflict(self) -> str | None:
        """Refuse a folder outside of the trial's."""
        if not self.folder or self.folder.startswith("/") or ".." in self.folder.split("/"):
            return f"folder={self.folder}: must be a name below the trial's folder"
        return None


class TensorBoard(Tracker):
    """Writes scalars as 64-bit floats, histograms and pictures; configuration, tables and artifacts as text.

    Of artifacts it has names, keys and checksums; the files stay where they are, and pages too.
    """

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
        """Open an event file in place of a former one: a run that is resumed has all its rows again.

        Told where it begins again, not all readers forget what came before; and they show a folder as one run.
        """
        from torch.utils.tensorboard import SummaryWriter

        place = run.folder / self.config.folder
        for former in place.glob("events.out.tfevents.*"):
            former.unlink()
        self._writer = SummaryWriter(str(place))
        told = {"run": run.name, "study": run.study, "tags": run.tags, "made": run.made, "config": run.config}
        self.writer.add_text("run", _fenced(told), 0)
        if run.made.get("dirty") and (diff := uncommitted()):
            self.writer.add_text("diff", f"```diff\n{diff}\n```", 0)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        self._step = step
        for name, value in row.items():
            self.writer.add_scalar(name, value, step, new_style=True, double_precision=True)

    def uses(self, artifact: Artifact) -> None:
        """What it is, as text."""
        self._describe("used", artifact)

    def makes(self, artifact: Artifact) -> None:
        """What it is, as text."""
        self._describe("made", artifact)

    def _describe(self, way: str, artifact: Artifact) -> None:
        where = {name: path.absolute().as_uri() for name, path in artifact.files.items()}
        told = {"kind": artifact.kind, "key": artifact.key, "files": where, "metadata": artifact.metadata}
        self.writer.add_text(f"artifacts/{way}/{artifact.name}", _fenced(told), self._step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table in Markdown."""
        lines = [columns, ["---"] * len(columns), *[[_cell(value) for value in row] for row in rows]]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """A histogram with its own bins."""
        import numpy as np

        counts, edges = np.asarray(histogram.counts, float), np.asarray(histogram.edges)
        middles = (edges[1:] + edges[:-1]) / 2  # moments as of the bins' middles
        self.writer.add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def figure(self, name: str, path: Path, step: int) -> None:
        """The picture as it is."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])  # the first chunk of every PNG file
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self.writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def text(self, name: str, text: str) -> None:
        """A text."""
        self.writer.add_text(name, text, self._step)

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Write all and close."""
        if self._writer is not None:
            self.log(metrics, self._step)
            self.writer.close()


def _fenced(told: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(told, indent=1, ensure_ascii=False, default=str)}\n```"


def _cell(value: Any) -> str:
    """A value in one cell of a Markdown table, whatever it is; texts as they would be read back from HTML."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(f"&#{ord(c)};" if c in "|\n\r\\`*_[]" else c for c in escape(text))
