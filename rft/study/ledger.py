"""The ledger of a study: one row a trial in an sqlite file, which all its launchers share.

No clock decides anything: whether a launcher or a trial is alive is told by locks that the kernel frees. Of several
launchers exactly one starts a trial, since a claim is one transaction.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rft.errors import UserError
from rft.store.names import INTERRUPTED, RECORD, TRIAL
from rft.store.running import LOCK, is_running
from rft.study.owner import FOLDER, REPAIR, is_alive
from rft.study.rows import Row, State
from rft.study.slots import Demand

FILE = "ledger.sqlite"
SECONDS = 60.0  # to wait while another process writes
MARK = 0x7266744C  # "rftL": the application_id of our files
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
_FINAL = frozenset({State.done, State.failed, State.cancelled})
T = TypeVar("T")


class Ledger:
    """The rows of a study. Opening makes the file, with a row for each record that is there.

    Args:
        study: the study's folder.
        warn: told in a line if the file was damaged.

    Raises:
        UserError: if the file cannot be written or is none of ours.
    """

    def __init__(self, study: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.study, self.warn = study.absolute(), warn
        self.path = self.study / FILE
        self.study.mkdir(parents=True, exist_ok=True)
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
            for row in rows:
                old = there.get(row.name)
                if old is None:
                    connection.execute(_INSERT, _values(row))
                elif old.state is State.queued or old.state in again.get(row.name, ()):
                    _queue(connection, replace(row, demand=row.demand or old.demand))

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
        self._transact(
            lambda connection: connection.execute(
                "UPDATE trials SET state = ?, error = ?, versions = ?, owner = ?, ended = ?, cancelling = 0 "
                "WHERE name = ?",
                values,
            )
        )

    def requeue(self, names: Collection[str], states: Collection[State]) -> list[str]:
        """Queue those of some trials that are in one of the states; returns which."""

        def queue(connection: sqlite3.Connection) -> list[str]:
            found = [row for row in _read(connection) if row.name in names and row.state in states]
            for row in found:
                _queue(connection, row)
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
            return waits, runs

        return self._transact(cancel)

    def note(self, key: str, value: Any) -> None:
        """Keep something of the study as a whole."""
        values = (key, json.dumps(value))
        self._transact(lambda connection: connection.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", values))

    def noted(self, key: str) -> Any:
        """What was kept; None if nothing was."""
        found = self._transact(
            lambda connection: connection.execute("SELECT value FROM study WHERE key = ?", (key,)).fetchone()
        )
        return json.loads(found[0]) if found else None

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
            UserError: if the file cannot be used.
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

    def _unusable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}: cannot be used ({error}); see that you may write there, that the disk has room and that no "
            "other program holds it, then start again"
        )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=SECONDS, isolation_level=None)

    def _require_sound(self) -> None:
        """Make the file if there is none; move it aside and make it anew, from the trials' records, if it is damaged.

        Raises:
            UserError: if it cannot be read or written, or is another program's.
        """
        import filelock

        try:
            (self.study / FOLDER).mkdir(exist_ok=True)
            with filelock.FileLock(self.study / FOLDER / REPAIR, timeout=SECONDS):
                there = self.path.exists()
                if there and (fault := self._fault()):
                    aside = self._move_aside()
                    self.warn(f"{self.path}: {fault}; moved to {aside.name} and made again from the trials' records")
                    there = False
                if not there:
                    self._make()
        except (sqlite3.Error, OSError, filelock.Timeout) as error:
            raise self._unusable(error) from error

    def _fault(self) -> str | None:
        """What is wrong with the file; None if nothing is.

        Raises:
            sqlite3.Error: if it cannot be read for another reason than its content.
            UserError: if it is another program's.
        """
        try:
            with closing(self._connect()) as connection:
                (mark,) = connection.execute("PRAGMA application_id").fetchone()
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

    def _make(self) -> None:
        with closing(self._connect()) as connection:
            with suppress(sqlite3.OperationalError):  # a file system without shared memory keeps the rollback journal
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {MARK}")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            for row in self._recorded():
                connection.execute(_INSERT, _values(row))
            connection.execute("COMMIT")

    def _recorded(self) -> Iterator[Row]:
        """What the folders say of trials: a record is an end; a lock without one a trial that began."""
        begun = {
            path.parent.relative_to(self.study) for name in (RECORD, LOCK) for path in self.study.glob(f"*/{name}")
        }
        begun |= {path.parent.relative_to(self.study) for path in self.study.glob(f"tuning/*/*/*/{RECORD}")}
        for folder in sorted(begun):
            named = TRIAL.fullmatch(folder.name)
            record = _record(self.study / folder / RECORD)
            if named is None and "arm" not in record:
                continue
            status, error = str(record.get("status")), str(record.get("error") or "it left no record of its end")
            ended = status in ("done", "failed") and not error.startswith(INTERRUPTED)
            state = State(status) if ended else State.interrupted
            seed = record.get("seed", named["seed"] if named else None)
            yield Row(
                name=folder.as_posix(),
                id=folder.name[-8:] if named else "",
                arm=str(record.get("arm", named["arm"] if named else "")),
                seed=None if seed is None else int(seed),
                overrides=tuple(map(str, record.get("overrides") or ())),
                state=State.running if is_running(self.study / folder) else state,
                error=None if state is State.done else error,
                versions=record.get("versions"),
            )


def _is_damage(error: Exception) -> bool:
    """Whether sqlite complains of the content, and not of what surrounds it, such as rights, locks or the disk."""
    told = ("malformed", "no such table", "no such column", "not a database", "unsupported file format")
    return isinstance(error, sqlite3.Error) and any(words in str(error) for words in told)


def _record(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _queue(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute(
        "UPDATE trials SET state = ?, owner = NULL, error = NULL, cancelling = 0, overrides = ?, id = ?, forks = ?, "
        "demand = ? WHERE name = ?",
        (State.queued.value, json.dumps(row.overrides), row.id, row.forks, _demand(row), row.name),
    )


def _values(row: Row) -> tuple[Any, ...]:
    own = {name: getattr(row, name) for name in _NAMES}
    own |= {"overrides": json.dumps(row.overrides), "state": row.state.value, "demand": _demand(row)}
    return tuple(own.values())


def _demand(row: Row) -> str | None:
    return None if row.demand is None else json.dumps(asdict(row.demand))


def _read(connection: sqlite3.Connection) -> list[Row]:
    found = []
    for values in connection.execute(_SELECT):
        own = dict(zip(_NAMES, values, strict=True))
        own |= {"overrides": tuple(json.loads(own["overrides"])), "state": State(own["state"])}
        own |= {"forks": bool(own["forks"]), "cancelling": bool(own["cancelling"])}
        own |= {"demand": Demand(**json.loads(own["demand"])) if own["demand"] else None}
        found.append(Row(**own))
    return found
