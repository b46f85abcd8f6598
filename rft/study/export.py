"""Tables of local trials, as CSV or Parquet: the histories of training, the metrics of the final test.

Numbers are those of the store to the bit: Parquet holds them as they are, CSV with the digits that give them back.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import UserError
from rft.store import Store
from rft.store.whole import write_whole
from rft.study.local import LocalTrial

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet")
WHO = ("study", "trial", "arm", "algorithm", "seed", "state")
"""The first columns of every table."""
_WHOLE = ("seed", "step")
_ORDER = ("step", "rollout/", "train/", "eval/", "budget/", "time/")


def require_ending(file: Path) -> None:
    """Refuse a file whose name does not say what it is to hold.

    Raises:
        UserError: naming it.
    """
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"{file}: ends in neither {' nor '.join(ENDINGS)}; the ending says what is written, so add one")


def history_rows(trials: Sequence[LocalTrial], store: Store) -> Iterator[Mapping[str, Any]]:
    """One row for each Lightning epoch of each trial's training, of those that have not ended as far as it is.

    What was spent until then, ``time/seconds`` and ``budget/money``, is told if the store has the trial's policy.

    Raises:
        UserError: if a history is damaged.
    """
    for trial in trials:
        history, clock = trial.history(), trial.clock(store)
        known = clock if len(clock) == len(history) else [{} for _ in history]
        for row, spent in zip(history, known, strict=True):
            told = {"time/seconds": spent.get("seconds"), "budget/money": spent.get("money")}
            yield _who(trial) | row | {name: value for name, value in told.items() if value is not None}


def final_rows(trials: Sequence[LocalTrial], store: Store) -> Iterator[Mapping[str, Any]]:
    """One row for each trial that is done, with the metrics of its final test."""
    for trial in trials:
        if found := trial.metrics(store):
            yield _who(trial) | found


def _who(trial: LocalTrial) -> dict[str, Any]:
    own = (trial.study, trial.row.name, trial.row.arm, trial.algorithm, trial.row.seed, trial.row.state.value)
    return dict(zip(WHO, own, strict=True))


def write_rows(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Write rows to a file, whole or not at all; what a row does not have is null, in CSV empty.

    Args:
        rows: one or more, with the columns of WHO.
        target: its ending says how it is written.

    Raises:
        UserError: if it cannot be written.
    """
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    table, data = _table(rows), io.BytesIO()
    if target.suffix.lower() == ".csv":
        csv.write_csv(table, data)
    else:
        pq.write_table(table, data)
    try:
        write_whole(target, data.getbuffer())
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}; choose another place") from error


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    names = sorted({name for row in rows for name in row} - set(WHO), key=_rank)
    kinds = {name: pa.string() for name in WHO} | dict.fromkeys(_WHOLE, pa.int64())
    columns = {
        name: pa.array([_plain(row.get(name), name) for row in rows], kinds.get(name, pa.float64()))
        for name in (*WHO, *names)
    }
    return pa.table(columns)


def _rank(name: str) -> tuple[int, str]:
    return next((place for place, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER)), name


def _plain(value: Any, name: str) -> Any:
    whole = name in _WHOLE and isinstance(value, float) and math.isfinite(value)
    return int(value) if whole else value
