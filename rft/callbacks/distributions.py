"""How rewards, advantages, ratios, lengths and KL are distributed in some of the rollout iterations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.callbacks.trackers.base import Histogram
from rft.models.backbone import Role
from rft.store.whole import write_whole
from rft.types import OnPolicyBatch, Sequences

BINS = 64


class Rolling(Protocol):
    """What is asked of a stream of rollouts."""

    measured: dict[str, Tensor]


class Distributions(lightning.Callback):
    """Histograms of an iteration's rollouts and of the ratios of all its steps; no algorithm knows of them.

    Of the first process's own rows. Those of ``distribution/ratio`` and ``distribution/advantage`` are tokens, of the
    others responses. A ratio is exp(log π − log π_old), which a minibatch's log-probabilities are compared for as the
    loss asks for them; an algorithm that makes other sequences of a batch, such as pairs, has none. They are kept in
    the checkpoint: a run that goes on tells of them again.

    Args:
        stream: of rollouts; None: nothing more is measured.
        most: iterations that are measured, evenly spread over the schedule.
    """

    def __init__(self, stream: Rolling | None = None, most: int = 0) -> None:
        self.stream, self.most = stream, most
        self._ratios: list[Tensor] = []
        self.found: dict[int, dict[str, dict[str, list[float]]]] = {}
        """By the optimiser's steps at the end of the iteration, and by name: counts and edges."""

    def _due(self, trainer: lightning.Trainer) -> bool:
        """Whether the present iteration is measured."""
        assert trainer.max_epochs is not None
        return self.most > 0 and trainer.current_epoch % ceil(trainer.max_epochs / self.most) == 0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Listen to the log-probabilities that the loss asks for."""
        assert isinstance(pl_module, Algorithm)
        if isinstance(batch, OnPolicyBatch) and self._due(trainer):
            pl_module.backbone.watch = partial(self._compare, batch)

    def _compare(self, batch: OnPolicyBatch, role: Role, seq: Sequences, logprobs: Tensor) -> None:
        if role is Role.policy and seq is batch.sequences:
            self._ratios.append((logprobs - batch.logprobs)[seq.response_mask].exp())

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Listen no more."""
        assert isinstance(pl_module, Algorithm)
        pl_module.backbone.watch = None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count what was seen."""
        if self.stream is None or not self._due(trainer):
            return
        seen = {name: values for name, values in self.stream.measured.items() if values.dtype is not torch.bool}
        if self._ratios:
            seen["ratio"] = torch.cat(self._ratios)
        self._ratios = []
        counted = {f"distribution/{name}": counts(values) for name, values in seen.items()}
        self.found[trainer.global_step] = {name: one for name, one in counted.items() if one is not None}

    def at(self, step: int) -> Mapping[str, Histogram]:
        """Those of the iteration that ended with a step, by name."""
        found = self.found.get(step, {})
        return {name: Histogram(tuple(map(int, one["counts"])), tuple(one["edges"])) for name, one in found.items()}

    def write(self, file: Path) -> None:
        """Keep all in a file, for a trial that is killed after training, before its tracker knows them."""
        with suppress(OSError):  # no training fails for want of it
            write_whole(file, self._text().encode())

    def read(self, file: Path) -> None:
        """Take them from a file, if it is there."""
        if file.exists():
            self.load_state_dict({"found": file.read_text(encoding="utf-8")})

    def state_dict(self) -> dict[str, Any]:
        """All so far, as one text: a checkpoint takes its time for every object in it."""
        return {"found": self._text()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from those of a checkpoint."""
        self.found = dict(json.loads(state_dict["found"]))

    def _text(self) -> str:
        return json.dumps(list(self.found.items()))  # numbers are no names in JSON


def counts(values: Tensor) -> dict[str, list[float]] | None:
    """``{"counts", "edges"}`` of the finite ones of some values, in `BINS` bins of equal width; None if there are none.

    Args:
        values: of any shape and type of number.
    """
    flat = values.detach().double().cpu().numpy().ravel()
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return None
    low, high = float(flat.min()), float(flat.max())
    size = max(1.0, abs(low), abs(high))
    # Between values that are (almost) equal there is no room for edges.
    room = None if high - low > 1e-9 * size else (low - size / 2, high + size / 2)
    found, edges = np.histogram(flat, BINS, range=room)
    return {"counts": found.tolist(), "edges": edges.tolist()}
