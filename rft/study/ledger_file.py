"""The sqlite file of a study's ledger: made, opened, and mended where it is damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rft.errors import UserError
from rft.store.locking import file_lock
from rft.store.names import PLAN
from rft.store.space import NEARLY_FULL_BYTES, is_shared
from rft.study.owner import FOLDER, REPAIR
from rft.study.remains import planned, remains
from rft.study.rows import Row

FILE = "ledger.sqlite"
SECONDS = 60.0  # to wait while another process writes
MARK = 0x7266744C  # "rftL": the application_id of our files
SCHEMA = 1  # their user_version; 0 is that of the first ones
_TABLES = """
CREATE TABLE IF NOT EXISTS trials (
    place INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they are started
    name TEXT NOT NULL UNIQUE, id TEXT NOT NULL, arm TEXT NOT NULL, seed INTEGER, overrides TEXT NOT NULL,
    state TEXT NOT NULL, owner TEXT, host TEXT, pid INTEGER, started REAL, heartbeat REAL, ended REAL,
    attempts INTEGER NOT NULL, error TEXT, versions TEXT, forks INTEGER NOT NULL, cancelling INTEGER NOT NULL,
    demand TEXT
);
CREATE TABLE IF NOT EXISTS study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_NAMES = tuple(field.name for field in fields(Row))
INSERT = f"INSERT INTO trials ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"
_SELECT = f"SELECT {', '.join(_NAMES)} FROM trials ORDER BY place"
NOTE = "INSERT OR REPLACE INTO study VALUES (?, ?)"
T = TypeVar("T")


class Unusable(UserError):
    """The ledger's file cannot be read or written where it is."""


class LedgerFile:
    """An sqlite file that is always whole when it is used.

    Args:
        study: the study's folder.
        warn: told in a line if the file was damaged.
        path: of the file.

    Raises:
        UserError: if the file is another program's, or a newer version's.
        Unusable: if it cannot be written.
    """

    def __init__(self, study: Path, warn: Callable[[str], None], path: Path) -> None:
        self.study, self.warn, self.path = study, warn, path
        self._require_sound()

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something that no other process can come between; if the file turns out damaged, mend it and do it then.

        Raises:
            Unusable: if the file cannot be written.
        """
        for last in (False, True):
            try:
                with closing(self._connect()) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    found = work(connection)
                    connection.execute("COMMIT")
                    return found
            except (sqlite3.Error, OSError) as error:
                if last or not _is_damage(error):
                    raise self._unusable(error) from error
                self._require_sound()
        raise AssertionError  # the second time it returned or raised

    def _unusable(self, error: Exception) -> Unusable:
        place = self.study if self.study.exists() else self.study.parent
        full = "I/O" in str(error) and place.exists() and shutil.disk_usage(place).free < NEARLY_FULL_BYTES
        reason = os.strerror(errno.ENOSPC) if full else error  # sqlite does not always tell
        return Unusable(
            f"{self.path}: cannot be used ({reason}); see that you may write there, that the disk has room and that no "
            "other program holds it, then start again"
        )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=SECONDS, isolation_level=None)

    def _require_sound(self) -> None:
        """Make the file if there is none; move it aside and make it anew, from the trials' records, if it is damaged.

        Raises:
            UserError: if it is another program's, or a newer version's.
            Unusable: if it cannot be read or written.
        """
        import filelock

        beside = self.path.parent / FOLDER
        try:
            beside.mkdir(parents=True, exist_ok=True)
            with file_lock(beside / REPAIR, SECONDS):
                there = self.path.exists()
                if there and (fault := self._fault()):
                    aside = self._move_aside()
                    made = f"made again from {PLAN} and the trials' records"
                    self.warn(f"{self.path}: {fault}; moved to {aside.name} and {made}")
                    there = False
                if not there:
                    self._make()
                elif lost := self._put_back():
                    names = f"{', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}"
                    self.warn(f"{self.path}: had lost {names}; put back from {PLAN} and the trials' records")
        except (sqlite3.Error, OSError, filelock.Timeout) as error:
            raise self._unusable(error) from error

    def _fault(self) -> str | None:
        """What is wrong with the file; None if nothing is.

        Raises:
            sqlite3.Error: if it cannot be read for another reason than its content.
            UserError: if it is another program's, or a newer version's.
        """
        try:
            with closing(self._connect()) as connection:
                (mark,) = connection.execute("PRAGMA application_id").fetchone()
                (schema,) = connection.execute("PRAGMA user_version").fetchone()
                if mark == MARK and schema > SCHEMA:
                    raise UserError(
                        f"{self.path}: is of a newer version of rft (schema {schema}; this one has {SCHEMA}); use that "
                        "version, or another name for the study"
                    )
                found = [str(line) for (line,) in connection.execute("PRAGMA quick_check").fetchall()]
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if found == ["ok"] and {"trials", "study"} <= tables:
                    if is_shared(self.path.parent):  # it was made elsewhere, or before this was known
                        connection.execute("PRAGMA busy_timeout = 1000")
                        with suppress(sqlite3.OperationalError):  # others have it open: the next time
                            connection.execute("PRAGMA journal_mode = DELETE")
                    if "demand" not in {at[1] for at in connection.execute("PRAGMA table_info(trials)")}:
                        connection.execute("ALTER TABLE trials ADD COLUMN demand TEXT")  # made before there was one
                    read(connection)
        except (sqlite3.Error, ValueError, TypeError) as error:
            if isinstance(error, sqlite3.Error) and not _is_damage(error):
                raise
            return f"is damaged ({error})"
        if tables and mark != MARK:
            raise UserError(f"{self.path}: is another program's file; move it away and start again")
        if found != ["ok"]:
            return f"is damaged ({found[0]})"
        return None if {"trials", "study"} <= tables else "is damaged (it lacks its tables)"

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{FILE}.damaged-{number}")).exists():
            number += 1
        self.path.rename(aside)
        for end in ("-wal", "-shm", "-journal"):  # of the old file: they would be applied to the new one
            with suppress(FileNotFoundError):
                self.path.with_name(f"{FILE}{end}").rename(aside.with_name(f"{aside.name}{end}"))
        return aside

    def _put_back(self) -> list[str]:
        """Put in what was planned and is not there, as if the end of a WAL was damaged, which sqlite leaves out."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")  # who plans writes the plan and the rows in one
            there = {row.name for row in read(connection)}
            noted = {key for (key,) in connection.execute("SELECT key FROM study")}
            rows, notes = planned(self.study)
            lost = [row.name for row in rows if row.name not in there]
            if lost or notes.keys() - noted:
                rows, notes = remains(self.study)
                connection.executemany(INSERT, [stored(row) for row in rows if row.name in lost])
                connection.executemany(
                    NOTE, [(key, json.dumps(value)) for key, value in notes.items() if key not in noted]
                )
            connection.execute("COMMIT")
            return lost

    def _make(self) -> None:
        with closing(self._connect()) as connection:
            if not is_shared(self.path.parent):  # WAL is read by memory that other machines do not share
                with suppress(sqlite3.OperationalError):  # nor does every file system here have it
                    connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {MARK}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            rows, notes = remains(self.study)
            connection.executemany(INSERT, map(stored, rows))
            connection.executemany(NOTE, [(key, json.dumps(value)) for key, value in notes.items()])
            connection.execute("COMMIT")


def read(connection: sqlite3.Connection) -> list[Row]:
    """All rows, in the order of the plan."""
    return [Row.of(dict(zip(_NAMES, found, strict=True))) for found in connection.execute(_SELECT)]


def stored(row: Row) -> tuple[Any, ...]:
    """A row as INSERT takes it."""
    return tuple(row.stored().values())


def _is_damage(error: Exception) -> bool:
    """Whether sqlite complains of the content, and not of what surrounds it, such as rights, locks or the disk."""
    told = ("malformed", "no such table", "no such column", "not a database", "unsupported file format")
    return isinstance(error, sqlite3.Error) and any(words in str(error) for words in told)
