"""Callbacks of every training run."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import Checkpoint
from safetensors.torch import save

from rft.algorithms.base import Algorithm
from rft.budget import Meter
from rft.callbacks.distributions import Distributions
from rft.callbacks.trackers.base import Histogram, Tracker
from rft.models.backbone import Role
from rft.progress import bar
from rft.store.entry import file_sha256
from rft.store.whole import write_whole


class TrainingBar(lightning.Callback):
    """One progress bar over all optimiser steps, with time left; quiet when the output is no terminal."""

    def __init__(self, description: str, batches: int) -> None:
        self.description, self.batches = description, batches
        self._context: Any = None
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the bar at what is done already."""
        self._context = bar(self.description, self.batches)
        self._bar = self._context.__enter__()
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if done > 0:
            self._bar.advance(done)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One batch further."""
        self._bar.advance()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar, whatever ended the run."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


class Stream(Protocol):
    """What the budget's callback asks of a data stream."""

    taken: int

    @property
    def least(self) -> int:
        """Minibatches that the next Lightning epoch begins with, whatever is left."""
        ...


class BudgetKeeper(lightning.Callback):
    """Ends training at the limit that the data stream met, and keeps the meter in the checkpoint.

    Args:
        meter: of the run.
        stream: its data.
        share: of the schedule or the budget, at which training pauses.
    """

    def __init__(self, meter: Meter, stream: Stream, share: float = 1.0) -> None:
        self.meter, self.stream, self.share = meter, stream, share
        self.reached = 0.0
        """The share that was behind when the last round ended."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The first round begins; a run that was at its end when it was killed does not begin again."""
        self.meter.begin()
        paused = self.share < 1 and self.reached >= self.share
        trainer.should_stop = paused or self.meter.stopped_by is not None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop if not as much as the next round begins with fits."""
        self.meter.end_round(self.stream.taken)
        part = self.meter.part
        if not self.meter.go_on(part and part.scaled(self.stream.least)):
            trainer.should_stop = True
        self.reached = behind(trainer, self.meter)
        if self.reached >= self.share:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What is used so far."""
        return self.meter.state() | {"reached": self.reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint had used."""
        self.meter.load(state_dict)
        self.reached = float(state_dict.get("reached", 0.0))


class History(lightning.Callback):
    """One row of metrics for each Lightning epoch, kept in the checkpoint and handed to the trackers.

    Times and money go to the trackers and to ``clock``, beside the rows: what is stored is the same at every run.
    A run that goes on hands over again what it has: a tracker loses rows with a process that is killed.

    Args:
        meter: of the run.
        tracker: is told; None: nobody is, as in all processes of a trial but the first.
        distributions: of rollouts, which the tracker is told too.
    """

    def __init__(
        self, meter: Meter, tracker: Tracker | None = None, distributions: Distributions | None = None
    ) -> None:
        self.meter, self.tracker, self.distributions = meter, tracker, distributions
        self.rows: list[dict[str, float]] = []
        self.clock: list[dict[str, float]] = []
        """Seconds, device seconds and money at each row."""
        self._told = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hand over the rows of a checkpoint."""
        self._tell()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hand over the rows of a last checkpoint: the run was killed after it, and no training began again."""
        self._tell()

    def _tell(self) -> None:
        """Hand over the rows that this process has not handed over yet."""
        if self.tracker is None:
            return
        at = None if self.distributions is None else self.distributions.at
        track(self.tracker, self.rows[self._told :], self.clock[self._told :], at)
        self._told = len(self.rows)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the epoch's means of what the algorithm logged, and what the rollouts measured."""
        assert isinstance(pl_module, Algorithm)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        used = self.meter.last
        counted = {f"budget/{name}": amount for name, amount in used.counted().items()}
        row = {"step": float(trainer.global_step), **pl_module.rollout_metrics, **metrics, **counted}
        self.rows.append(row)
        times = {"seconds": round(used.seconds, 3), "device_seconds": round(used.device_seconds, 3)}
        self.clock.append(times | {"money": self.meter.prices.money(used)})
        self._tell()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, as one text: a checkpoint takes its time for every object in it."""
        return {"rows": json.dumps(self.rows), "clock": json.dumps(self.clock)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of a checkpoint."""
        self.rows, self.clock = json.loads(state_dict["rows"]), json.loads(state_dict["clock"])


def track(
    tracker: Tracker,
    rows: Sequence[Mapping[str, float]],
    clock: Sequence[Mapping[str, float]],
    distributions: Callable[[int], Mapping[str, Histogram]] | None = None,
) -> None:
    """Hand rows of a history, with their times and money, to a tracker, and the distributions at their steps."""
    for row, spent in zip(rows, clock, strict=True):
        for name, histogram in ({} if distributions is None else distributions(int(row["step"]))).items():
            tracker.histogram(name, histogram, int(row["step"]))
        told = {"time/seconds": spent["seconds"], "budget/money": spent.get("money", 0.0)}
        tracker.log({k: v for k, v in row.items() if k != "step"} | told, step=int(row["step"]))


class Snapshots(lightning.Callback):
    """Keeps the policy at evenly spaced points of the schedule or the budget, whichever is further along.

    Args:
        count: points before the end, which is kept anyway.
        meter: tells how much of a limit is used.
        folder: where they are written; only by the first process.
    """

    def __init__(self, count: int, meter: Meter, folder: Path) -> None:
        self.count, self.meter, self.folder = count, meter, folder
        self.taken: list[dict[str, float]] = []
        self.sums: dict[str, str] = {}
        """The sha256 of each file that the first process has written."""
        self._step = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the policy if the next point is reached and a step has just been made."""
        if len(self.taken) == self.count or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        fraction = behind(trainer, self.meter)
        # A long step may pass several points at once: the policy is the same at each, and one of them is enough.
        if (due := min(self.count, int(fraction * (self.count + 1)))) <= len(self.taken) or fraction >= 1:
            return
        assert isinstance(pl_module, Algorithm)
        self.taken += [{"step": float(trainer.global_step), "fraction": fraction}] * (due - len(self.taken))
        if trainer.is_global_zero:
            # By way of memory, as checkpoints: on a full disk safetensors hides the system's error.
            content = save(pl_module.backbone.role_state(Role.policy))
            write_whole(self.folder / (name := snapshot_name(self.taken[-1])), content)
            self.sums[name] = hashlib.sha256(content).hexdigest()

    def keep(self, out: Path) -> None:
        """Copy what was taken into the entry, with its list; nothing if none was asked for.

        The originals stay beside the checkpoints: a run that is killed before its entry is whole goes on from both.
        """
        if self.count == 0:
            return
        distinct = [point for i, point in enumerate(self.taken) if point not in self.taken[:i]]
        for point in distinct:
            shutil.copyfile(self.folder / snapshot_name(point), out / snapshot_name(point))
        listed = [point | {"file": snapshot_name(point)} for point in distinct]
        (out / SNAPSHOTS).write_text(json.dumps(listed, indent=1), encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """Which points are passed, and the sums of their files."""
        return {"taken": self.taken, "sums": self.sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the points of a checkpoint."""
        self.taken, self.sums = list(state_dict["taken"]), dict(state_dict["sums"])

    @staticmethod
    def fault(state_dict: dict[str, Any], folder: Path) -> str | None:
        """What is wrong with the files in a folder that a checkpoint's state names; None if they are as written."""
        for name, expected in state_dict["sums"].items():
            try:
                if file_sha256(folder / name) != expected:
                    return f"names {name}, which does not match its sha256"
            except OSError as error:
                return f"names {name}, which cannot be read ({error.strerror})"
        return None


class KeepLast(Checkpoint):
    """Saves a checkpoint when a Lightning epoch that made a step has ended; Lightning calls it after all others.

    A checkpoint grows with the history in it. So that a long run of short epochs does not spend its time on them, all
    but the first and the last wait until what the one before took is no more than `share` of the time.

    Args:
        folder: where ``rft.checkpoint`` keeps them.
        share: of the time of training, in (0, 1]; with 1 each epoch is saved.
    """

    def __init__(self, folder: Path, share: float = 1.0) -> None:
        self.folder, self.share = folder, share
        self._step = 0
        self._due = -math.inf

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """What training goes on from is there already."""
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save if it is time; all ranks together, and the first one writes."""
        if trainer.global_step == self._step:
            return
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.strategy.broadcast(last or time.monotonic() >= self._due):
            self._step, begun = trainer.global_step, time.monotonic()
            trainer.save_checkpoint(self.folder)
            ended = time.monotonic()
            self._due = ended + (ended - begun) * (1 / self.share - 1)


def behind(trainer: lightning.Trainer, meter: Meter) -> float:
    """Share of the schedule or of the budget that is behind, whichever is larger. All ranks must ask together."""
    assert trainer.max_epochs is not None
    within = (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
    return max((trainer.current_epoch + within) / trainer.max_epochs, meter.fraction())


SNAPSHOTS = "snapshots.json"
"""In a policy's entry: step, fraction of the schedule or budget, and file of each snapshot."""


def snapshot_name(point: dict[str, float]) -> str:
    """The file of a snapshot."""
    return f"policy-{int(point['step']):06d}.safetensors"
