"""Callbacks of every training run."""

from __future__ import annotations

import time
from typing import Any

import lightning

from rft.algorithms.base import Algorithm
from rft.progress import bar


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


class History(lightning.Callback):
    """One row of metrics for each Lightning epoch, kept in the checkpoint and handed to the trackers.

    Times go to the trackers only: what is stored is the same at every run.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the epoch's means of what the algorithm logged, and what the rollouts measured."""
        assert isinstance(pl_module, Algorithm)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        row = {"step": float(trainer.global_step), **pl_module.rollout_metrics, **metrics}
        self.rows.append(row)
        elapsed = {"time/seconds": time.perf_counter() - self._started}
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"} | elapsed, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])
