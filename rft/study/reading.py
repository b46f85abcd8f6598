"""Look at a study where nothing can be written: on a full disk, in a folder that can only be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rft.study.ledger import FILE, Ledger, Unusable
from rft.study.rows import Row


def rows_of(study: Path, warn: Callable[[str], None]) -> list[Row]:
    """The rows of a study's ledger, from a copy of it if its own folder takes nothing; a line then says so.

    Args:
        study: the study's folder.
        warn: told in a line what is wrong.

    Raises:
        UserError: if the file is another program's, or a newer version's.
        Unusable: if it cannot be copied either.
    """
    try:
        return Ledger(study, warn).rows()
    except Unusable as error:
        with TemporaryDirectory(prefix="rft-ledger-") as scratch:
            copy, damage = Path(scratch) / FILE, list[str]()
            try:
                for end in ("", "-wal", "-journal"):  # what is in them is not in the file yet
                    if (own := study / f"{FILE}{end}").exists():
                        shutil.copyfile(own, copy.with_name(own.name))
                rows = Ledger(study, damage.append, file=copy).rows()
            except OSError:
                raise error from None
        instead = "it is damaged, so this is what its plan and the trials' records say" if damage else "this is a copy"
        warn(f"{str(error).partition(';')[0]}; {instead}")
        return rows
