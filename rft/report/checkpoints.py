"""Checkpoints that were evaluated on the way: their means, from the file beside the evaluation rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rft.errors import UserError
from rft.report.rows import LeftOut, read_columns

CHECKPOINTS_FILE = "checkpoints.parquet"
MEASURED = ("kl", "gold", "proxy")
COLUMNS = ("checkpoint", "step", "fraction", "split", "prompt_id", *MEASURED)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Means over the prompts of a split, each counted once; `proxy` is NaN if the study has no reward model."""

    split: str
    checkpoint: int
    step: int  # optimiser steps done
    fraction: float  # of the training, in [0, 1]
    kl: float  # nats per sequence against the SFT reference
    gold: float
    proxy: float
    prompt_ids: frozenset[str] = frozenset()
    """The questions that were asked."""


def read_checkpoints(path: Path) -> tuple[Checkpoint, ...]:
    """The means by (split, checkpoint), in that order; none if there is no such file.

    Raises:
        UserError: if the file cannot be read, or holds a gold or a KL that is no finite number.
    """
    if not path.exists():
        return ()
    mend = "run the trial again with an empty store, or leave its study out"
    try:
        table = read_columns(path, COLUMNS)
    except LeftOut as error:
        raise UserError(f"{path}: {error}; {mend}") from error
    # Means over the samples of each prompt first: prompts count once, however many samples they have.
    by_prompt = table.group_by(list(COLUMNS[:5])).aggregate([(name, "mean") for name in MEASURED])
    of_split = by_prompt.group_by(list(COLUMNS[:4])).aggregate([(f"{name}_mean", "mean") for name in MEASURED])
    asked: dict[tuple[str, int], set[str]] = {}
    for row in by_prompt.select(["split", "checkpoint", "prompt_id"]).to_pylist():
        asked.setdefault((row["split"], row["checkpoint"]), set()).add(row["prompt_id"])
    found = tuple(
        Checkpoint(
            split=str(row["split"]),
            checkpoint=int(row["checkpoint"]),
            step=int(row["step"]),
            fraction=float(row["fraction"]),
            **{name: _number(row[f"{name}_mean_mean"]) for name in MEASURED},
            prompt_ids=frozenset(asked[row["split"], row["checkpoint"]]),
        )
        for row in of_split.to_pylist()
    )
    for point in found:
        if not np.isfinite([point.gold, point.kl]).all():
            raise UserError(
                f"{path}: checkpoint {point.checkpoint} on {point.split} has a mean gold of {point.gold} and a mean KL "
                f"of {point.kl}; {mend}"
            )
    return tuple(sorted(found, key=lambda point: (point.split, point.checkpoint)))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
