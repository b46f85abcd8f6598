"""Look at a study where nothing can be written: on a full disk, in a folder that can only be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rft.store import Store
from rft.store.names import RECORD
from rft.study.ledger import Ledger
from rft.study.ledger_file import FILE, Unusable
from rft.study.rows import Row, State

GONE = "its folder has no record any more; rft resume makes it again, from what the store has"


def as_found(study: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows as the trials' folders say: what is done but has lost its record, and what ended after its launcher.

    Args:
        study: the study's folder.
        rows: of its ledger.
    """
    return [_as_found(study / row.name, row) if row.is_trial and row.seed is not None else row for row in rows]


def _as_found(folder: Path, row: Row) -> Row:
    from rft.study.finished import is_finished
    from rft.study.versions import versions

    if row.state is State.done and not (folder / RECORD).exists():
        return replace(row, state=State.interrupted, error=GONE)
    if row.state is State.interrupted and row.owner is not None and is_finished(folder, Store.default()):
        return replace(row, state=State.done, owner=None, error=None, versions=versions())
    return row


def rows_of(study: Path, warn: Callable[[str], None]) -> list[Row]:
    """The rows of a study's ledger as found, from a copy of it if its own folder takes nothing; a line then says so.

    Args:
        study: the study's folder.
        warn: told in a line what is wrong.

    Raises:
        UserError: if the file is another program's, or a newer version's.
        Unusable: if it cannot be copied either.
    """
    try:
        return as_found(study, Ledger(study, warn).rows())
    except Unusable as error:
        with TemporaryDirectory(prefix="rft-ledger-") as scratch:
            copy, damage = Path(scratch) / FILE, list[str]()
            try:
                for end in ("", "-wal", "-journal"):  # what is in them is not in the file yet
                    if (own := study / f"{FILE}{end}").exists():
                        shutil.copyfile(own, copy.with_name(own.name))
                rows = as_found(study, Ledger(study, damage.append, file=copy).rows())
            except OSError:
                raise error from None
        instead = "it is damaged, so this is what its plan and the trials' records say" if damage else "this is a copy"
        warn(f"{str(error).partition(';')[0]}; {instead}")
        return rows
