"""The ledger of a study: one row a trial in an sqlite file, which all its launchers share.

No clock decides anything: whether a launcher or a trial is alive is told by locks that the kernel frees. Of several
launchers exactly one starts a trial, since a claim is one transaction.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rft.errors import UserError
from rft.store.running import is_running
from rft.store.space import NEARLY_FULL_BYTES
from rft.study.owner import FOLDER, REPAIR, is_alive
from rft.study.remains import PLAN, keep, planned, remains
from rft.study.rows import Row, State

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
_INSERT = f"INSERT INTO trials ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"
_SELECT = f"SELECT {', '.join(_NAMES)} FROM trials ORDER BY place"
_NOTE = "INSERT OR REPLACE INTO study VALUES (?, ?)"
_FINAL = frozenset({State.done, State.failed, State.cancelled})
T = TypeVar("T")


class Unusable(UserError):
    """The ledger's file cannot be read or written where it is."""


class Ledger:
    """The rows of a study. Opening makes the file, with a row for each trial that was planned or left a record.

    Args:
        study: the study's folder.
        warn: told in a line if the file was damaged.
        file: where its file is, if not in that folder.

    Raises:
        UserError: if the file is another program's, or a newer version's.
        Unusable: if it cannot be written.
    """

    def __init__(self, study: Path, warn: Callable[[str], None] = lambda _: None, *, file: Path | None = None) -> None:
        self.study, self.warn = study.absolute(), warn
        self.path = file or self.study / FILE
        self._require_sound()

    def rows(self) -> list[Row]:
        """All, in the order of the plan; one whose launcher and process are gone is shown as interrupted."""
        found = self._transact(_read)
        alive = self._living(found)
        return [replace(row, state=State.interrupted) if self._orphan(row, alive) else row for row in found]

    def submit(self, rows: Sequence[Row], again: Mapping[str, Collection[State]]) -> None:
        """Put trials in, queued; those that are there stay as they are, but for what is to be done again.

        Args:
            rows: of the trials, in the order in which they are to start.
            again: by name, the states in which a trial that is there is queued once more.
        """

        def put(connection: sqlite3.Connection) -> None:
            there = {row.name: row for row in _read(connection)}
            alive = self._living(list(there.values()))
            for row in rows:
                old = there.get(row.name)
                if old is not None and not row.id and old.overrides != row.overrides and self._orphan(old, alive):
                    old = replace(old, state=State.interrupted)  # a place that holds one thing after another
                if old is None:
                    connection.execute(_INSERT, _values(row))
                elif old.state is State.queued or old.state in again.get(row.name, ()):
                    _queue(connection, replace(row, demand=row.demand or old.demand))
            self._keep(connection)

        self._transact(put)

    def adopt(self, row: Row, owner: str) -> None:
        """Say again that a launcher runs a trial, if the ledger was damaged meanwhile and made anew.

        Args:
            row: of the trial, which need not be there.
            owner: who runs it.
        """

        def put(connection: sqlite3.Connection) -> None:
            if row.name not in {one.name for one in _read(connection)}:
                connection.execute(_INSERT, _values(row))
            values = (State.running.value, owner, socket.gethostname(), row.name)
            connection.execute("UPDATE trials SET state = ?, owner = ?, host = ? WHERE name = ?", values)

        self._transact(put)

    def claim(self, names: Collection[str], owner: str, most: int = 1, *, ended: Collection[State] = ()) -> list[Row]:
        """Take trials that nobody has, in the order of the plan: queued ones and those whose launcher has died.

        Args:
            names: which may be taken.
            owner: who takes them.
            most: how many at most.
            ended: states of ended trials that may be taken too.
        """

        def take(connection: sqlite3.Connection) -> list[Row]:
            found = [row for row in _read(connection) if row.name in names]
            alive = self._living(found)
            free = [
                row for row in found if row.state is State.queued or row.state in ended or self._orphan(row, alive)
            ][:most]
            now = time.time()
            for row in free:
                connection.execute(
                    "UPDATE trials SET state = ?, owner = ?, host = ?, pid = NULL, started = ?, heartbeat = ?, "
                    "ended = NULL, error = NULL, cancelling = 0, attempts = attempts + 1 WHERE name = ?",
                    (State.running.value, owner, socket.gethostname(), now, now, row.name),
                )
            return free

        return self._transact(take)

    def beat(self, pids: Mapping[str, int | None]) -> set[str]:
        """Note that trials are alive, with their process ids; returns those that are to be cancelled."""

        def note(connection: sqlite3.Connection) -> set[str]:
            now = time.time()
            for name, pid in pids.items():
                connection.execute("UPDATE trials SET heartbeat = ?, pid = ? WHERE name = ?", (now, pid, name))
            return {name for (name,) in connection.execute("SELECT name FROM trials WHERE cancelling") if name in pids}

        return self._transact(note)

    def end(
        self, name: str, state: State, error: str | None = None, versions: str | None = None, owner: str | None = None
    ) -> None:
        """Write how a trial ended.

        Args:
            name: the trial's.
            state: the end.
            error: why, if it is not done.
            versions: of the code, if it is.
            owner: the launcher, if the trial ended only since it ends: another one may go on with it.
        """
        values = (state.value, error, versions, owner, time.time(), name)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE trials SET state = ?, error = ?, versions = ?, owner = ?, ended = ?, cancelling = 0 "
                "WHERE name = ?",
                values,
            )
            if state is State.cancelled:
                self._keep(connection)

        self._transact(write)

    def requeue(self, names: Collection[str], states: Collection[State]) -> list[str]:
        """Queue those of some trials that are in one of the states; returns which."""

        def queue(connection: sqlite3.Connection) -> list[str]:
            found = [row for row in _read(connection) if row.name in names and row.state in states]
            for row in found:
                _queue(connection, row)
            self._keep(connection)
            return [row.name for row in found]

        return self._transact(queue)

    def cancel(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Cancel trials; returns those that are cancelled, and those whose launchers are asked to end them."""

        def cancel(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
            found = [row for row in _read(connection) if row.name in names]
            alive = self._living(found)
            runs = [row.name for row in found if row.state is State.running and not self._orphan(row, alive)]
            waits = [row.name for row in found if row.name not in runs and row.state not in _FINAL]
            for name in runs:
                connection.execute("UPDATE trials SET cancelling = 1 WHERE name = ?", (name,))
            for name in waits:
                connection.execute(
                    "UPDATE trials SET state = ?, owner = NULL, ended = ? WHERE name = ?",
                    (State.cancelled.value, time.time(), name),
                )
            self._keep(connection)
            return waits, runs

        return self._transact(cancel)

    def note(self, key: str, value: Any) -> None:
        """Keep something of the study as a whole."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(_NOTE, (key, json.dumps(value)))
            self._keep(connection)

        self._transact(put)

    def noted(self, key: str) -> Any:
        """What was kept; None if nothing was."""
        found = self._transact(
            lambda connection: connection.execute("SELECT value FROM study WHERE key = ?", (key,)).fetchone()
        )
        return json.loads(found[0]) if found else None

    def _keep(self, connection: sqlite3.Connection) -> None:
        """Write what would be lost with the file."""
        notes = connection.execute("SELECT key, value FROM study").fetchall()
        keep(self.study, _read(connection), {key: json.loads(value) for key, value in notes})

    def _living(self, rows: Sequence[Row]) -> set[str]:
        """The launchers that are alive, of those that have one of these rows."""
        return {name for name in {row.owner for row in rows if row.owner} if is_alive(self.study, name)}

    def _orphan(self, row: Row, alive: Collection[str]) -> bool:
        """Whether a launcher had this trial and is gone, and so is the trial's process."""
        had = row.state is State.running or (row.state is State.interrupted and row.owner is not None)
        return had and row.owner not in alive and not is_running(self.study / row.name)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
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
            with filelock.FileLock(beside / REPAIR, timeout=SECONDS):
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
                    if "demand" not in {at[1] for at in connection.execute("PRAGMA table_info(trials)")}:
                        connection.execute("ALTER TABLE trials ADD COLUMN demand TEXT")  # made before there was one
                    _read(connection)
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
            there = {row.name for row in _read(connection)}
            noted = {key for (key,) in connection.execute("SELECT key FROM study")}
            rows, notes = planned(self.study)
            lost = [row.name for row in rows if row.name not in there]
            if lost or notes.keys() - noted:
                rows, notes = remains(self.study)
                connection.executemany(_INSERT, [_values(row) for row in rows if row.name in lost])
                connection.executemany(
                    _NOTE, [(key, json.dumps(value)) for key, value in notes.items() if key not in noted]
                )
            connection.execute("COMMIT")
            return lost

    def _make(self) -> None:
        with closing(self._connect()) as connection:
            with suppress(sqlite3.OperationalError):  # a file system without shared memory keeps the rollback journal
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {MARK}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            rows, notes = remains(self.study)
            connection.executemany(_INSERT, map(_values, rows))
            connection.executemany(_NOTE, [(key, json.dumps(value)) for key, value in notes.items()])
            connection.execute("COMMIT")


def _is_damage(error: Exception) -> bool:
    """Whether sqlite complains of the content, and not of what surrounds it, such as rights, locks or the disk."""
    told = ("malformed", "no such table", "no such column", "not a database", "unsupported file format")
    return isinstance(error, sqlite3.Error) and any(words in str(error) for words in told)


def _queue(connection: sqlite3.Connection, row: Row) -> None:
    own = row.stored()
    connection.execute(
        "UPDATE trials SET state = ?, owner = NULL, error = NULL, cancelling = 0, overrides = ?, id = ?, forks = ?, "
        "demand = ? WHERE name = ?",
        (State.queued.value, *(own[name] for name in ("overrides", "id", "forks", "demand", "name"))),
    )


def _values(row: Row) -> tuple[Any, ...]:
    return tuple(row.stored().values())


def _read(connection: sqlite3.Connection) -> list[Row]:
    return [Row.of(dict(zip(_NAMES, values, strict=True))) for values in connection.execute(_SELECT)]
