"""Checkpoints that were evaluated on the way: their means, from the file beside the evaluation rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rft.report.rows import POSSIBLE, LeftOut, read_columns
from rft.report.wording import brief

if TYPE_CHECKING:
    import pyarrow as pa

MEASURED = ("kl", "gold", "proxy")
COLUMNS = ("checkpoint", "step", "fraction", "split", "prompt_id", *MEASURED)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Means over the prompts of a split, each counted once; `proxy` is of the judged ones, NaN if there are none."""

    split: str
    checkpoint: int
    step: int  # optimiser steps done
    fraction: float  # of the training, in [0, 1]
    kl: float  # nats per sequence against the SFT reference
    gold: float
    proxy: float
    prompt_ids: frozenset[str] = frozenset()
    """The questions that were asked."""


def read_checkpoints(path: Path, asked: Mapping[str, Collection[str]]) -> tuple[Checkpoint, ...]:
    """The means by (split, checkpoint), in that order; none if there is no such file.

    Args:
        path: the file.
        asked: by split, the prompt ids of the final test, of which a point of training answers some.

    Raises:
        LeftOut: if the file cannot be read, lacks a value, holds a row twice, a number that is none or cannot be, or a
            question that the final test does not ask.
    """
    import pyarrow as pa

    if not path.exists():
        return ()
    table = read_columns(path, COLUMNS, more=("sample",))
    try:
        return _means(table, path.name, asked)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise LeftOut(f"{path.name}: a column has the wrong type ({brief(str(error))})") from error


def _means(table: pa.Table, file: str, asked: Mapping[str, Collection[str]]) -> tuple[Checkpoint, ...]:
    for name in (*COLUMNS[:5], "gold", "kl"):
        if nulls := table.column(name).null_count:
            raise LeftOut(f"{file}: {name} is missing in {nulls} of {table.num_rows} rows")
    _require_numbers(table, file)
    identity = [name for name in ("split", "checkpoint", "prompt_id", "sample") if name in table.column_names]
    if "sample" in identity and table.group_by(identity).aggregate([]).num_rows < table.num_rows:
        raise LeftOut(f"{file}: some rows are there twice")
    # Means over the samples of each prompt first: prompts count once, however many samples they have.
    by_prompt = table.group_by(list(COLUMNS[:5])).aggregate([(name, "mean") for name in MEASURED])
    of_split = by_prompt.group_by(list(COLUMNS[:4])).aggregate([(f"{name}_mean", "mean") for name in MEASURED])
    prompts: dict[tuple[str, int], set[str]] = {}
    for row in by_prompt.select(["split", "checkpoint", "prompt_id"]).to_pylist():
        if row["prompt_id"] not in asked.get(row["split"], ()):
            raise LeftOut(f"{file}: split {row['split']}: prompt {row['prompt_id']} is not in the final test")
        prompts.setdefault((row["split"], row["checkpoint"]), set()).add(row["prompt_id"])
    found = [
        Checkpoint(
            split=row["split"],
            checkpoint=int(row["checkpoint"]),
            step=int(row["step"]),
            fraction=float(row["fraction"]),
            **{name: _number(row[f"{name}_mean_mean"]) for name in MEASURED},
            prompt_ids=frozenset(prompts[row["split"], row["checkpoint"]]),
        )
        for row in of_split.to_pylist()
    ]
    return tuple(sorted(found, key=lambda point: (point.split, point.checkpoint)))


def _require_numbers(table: pa.Table, file: str) -> None:
    for name in MEASURED:
        values = table.column(name).cast("double").to_numpy()
        lowest, highest = POSSIBLE.get(name, (-np.inf, np.inf))
        # A response that a judge gave no score has none: it is null. A NaN is a fault.
        lacks = table.column(name).is_null().to_numpy()
        bad = np.flatnonzero((~np.isfinite(values) & ~lacks) | (values < lowest) | (values > highest))
        if len(bad) == 0 or (name == "proxy" and np.isnan(values).all()):
            continue
        where = {column: table.column(column)[int(bad[0])].as_py() for column in ("split", "checkpoint", "prompt_id")}
        raise LeftOut(
            f"{file}: split {where['split']}: {name} of prompt {where['prompt_id']} is {values[bad[0]]} "
            f"at checkpoint {where['checkpoint']}"
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
