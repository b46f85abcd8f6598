"""The ledger of a study: one row a trial in an sqlite file, which all its launchers share.

No clock decides anything: whether a launcher or a trial is alive is told by locks that the kernel frees. Of several
launchers exactly one starts a trial, since a claim is one transaction.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rft.secrets import scrubbed
from rft.store.running import is_running
from rft.study.ledger_file import FILE, INSERT, NOTE, LedgerFile, read, stored
from rft.study.owner import is_alive
from rft.study.remains import keep
from rft.study.rows import Row, State

_FINAL = frozenset({State.done, State.failed, State.cancelled})


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
        self.study = study.absolute()
        self._file = LedgerFile(self.study, warn, file or self.study / FILE)

    def rows(self) -> list[Row]:
        """All, in the order of the plan; one whose launcher and process are gone is shown as what is left of it."""
        found = self._file.transact(read)
        alive = self._living(found)
        return [_left(row) if self._orphan(row, alive) else row for row in found]

    def submit(self, rows: Sequence[Row], again: Mapping[str, Collection[State]]) -> None:
        """Put trials in, queued; those that are there stay as they are, but for what is to be done again.

        Args:
            rows: of the trials, in the order in which they are to start.
            again: by name, the states in which a trial that is there is queued once more.
        """

        def put(connection: sqlite3.Connection) -> None:
            found, alive = self._found(connection)
            there = {row.name: row for row in found}
            for row in rows:
                old = there.get(row.name)
                if old is not None and not row.id and old.overrides != row.overrides and self._orphan(old, alive):
                    old = replace(old, state=State.interrupted)  # a place that holds one thing after another
                if old is None:
                    connection.execute(INSERT, stored(row))
                elif old.state is State.queued or old.state in again.get(row.name, ()):
                    _queue(connection, replace(row, demand=row.demand or old.demand))
            self._keep(connection)

        self._file.transact(put)

    def adopt(self, row: Row, owner: str) -> None:
        """Say again that a launcher runs a trial, if the ledger was damaged meanwhile and made anew.

        Args:
            row: of the trial, which need not be there.
            owner: who runs it.
        """

        def put(connection: sqlite3.Connection) -> None:
            if row.name not in {one.name for one in read(connection)}:
                connection.execute(INSERT, stored(row))
            values = (State.running.value, owner, socket.gethostname(), row.name)
            connection.execute("UPDATE trials SET state = ?, owner = ?, host = ? WHERE name = ?", values)

        self._file.transact(put)

    def claim(self, names: Collection[str], owner: str, most: int = 1, *, ended: Collection[State] = ()) -> list[Row]:
        """Take trials that nobody has, in the order of the plan: queued ones and those whose launcher has died.

        Args:
            names: which may be taken.
            owner: who takes them.
            most: how many at most.
            ended: states of ended trials that may be taken too.
        """

        def take(connection: sqlite3.Connection) -> list[Row]:
            found, alive = self._found(connection, names)
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

        return self._file.transact(take)

    def beat(self, at: Mapping[str, tuple[str, int | None]]) -> set[str]:
        """Note that trials are alive, each with its host, empty for this one, and its process id there.

        Returns those that are to be cancelled.
        """

        def note(connection: sqlite3.Connection) -> set[str]:
            now = time.time()
            for name, (host, pid) in at.items():
                values = (now, pid, host or socket.gethostname(), name)
                connection.execute("UPDATE trials SET heartbeat = ?, pid = ?, host = ? WHERE name = ?", values)
            return {name for (name,) in connection.execute("SELECT name FROM trials WHERE cancelling") if name in at}

        return self._file.transact(note)

    def end(
        self, name: str, state: State, error: str | None = None, versions: str | None = None, owner: str | None = None
    ) -> None:
        """Write how a trial ended.

        Args:
            name: the trial's.
            state: the end.
            error: why, if it is not done; kept without the secrets of the environment.
            versions: of the code, if it is.
            owner: the launcher, if the trial ended only since it ends: another one may go on with it.
        """
        values = (state.value, error and scrubbed(error), versions, owner, time.time(), name)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE trials SET state = ?, error = ?, versions = ?, owner = ?, ended = ?, cancelling = 0 "
                "WHERE name = ?",
                values,
            )
            if state is State.cancelled:
                self._keep(connection)

        self._file.transact(write)

    def requeue(self, names: Collection[str], states: Collection[State]) -> list[str]:
        """Queue those of some trials that are in one of the states; returns which."""

        def queue(connection: sqlite3.Connection) -> list[str]:
            found = [row for row in self._found(connection, names)[0] if row.state in states]
            for row in found:
                _queue(connection, row)
            self._keep(connection)
            return [row.name for row in found]

        return self._file.transact(queue)

    def cancel(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Cancel trials; returns those that are cancelled, and those whose launchers are asked to end them."""

        def cancel(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
            found, alive = self._found(connection, names)
            runs = [row.name for row in found if row.state is State.running and not self._orphan(row, alive)]
            waits = [row.name for row in found if row.name not in runs and row.state not in _FINAL]
            for name in runs:
                connection.execute("UPDATE trials SET cancelling = 1 WHERE name = ?", (name,))
            for name in waits:
                connection.execute(
                    "UPDATE trials SET state = ?, owner = NULL, error = NULL, ended = ? WHERE name = ?",
                    (State.cancelled.value, time.time(), name),
                )
            self._keep(connection)
            return waits, runs

        return self._file.transact(cancel)

    def note(self, key: str, value: Any) -> None:
        """Keep something of the study as a whole."""

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(NOTE, (key, json.dumps(value)))
            self._keep(connection)

        self._file.transact(put)

    def noted(self, key: str) -> Any:
        """What was kept; None if nothing was."""
        found = self._file.transact(
            lambda connection: connection.execute("SELECT value FROM study WHERE key = ?", (key,)).fetchone()
        )
        return json.loads(found[0]) if found else None

    def _keep(self, connection: sqlite3.Connection) -> None:
        """Write what would be lost with the file."""
        notes = connection.execute("SELECT key, value FROM study").fetchall()
        keep(self.study, read(connection), {key: json.loads(value) for key, value in notes})

    def _found(
        self, connection: sqlite3.Connection, names: Collection[str] | None = None
    ) -> tuple[list[Row], set[str]]:
        """Rows, all or of these names, and which of their launchers are alive.

        What was to be cancelled, and is gone with its launcher, is cancelled: nobody else would write it down.
        """
        rows = [row for row in read(connection) if names is None or row.name in names]
        alive = self._living(rows)
        for place, row in enumerate(rows):
            if row.cancelling and self._orphan(row, alive):
                rows[place] = _left(row)
                values = (State.cancelled.value, time.time(), row.name)
                connection.execute(
                    "UPDATE trials SET state = ?, owner = NULL, error = NULL, cancelling = 0, ended = ? WHERE name = ?",
                    values,
                )
        return rows, alive

    def _living(self, rows: Sequence[Row]) -> set[str]:
        """The launchers that are alive, of those that have one of these rows."""
        return {name for name in {row.owner for row in rows if row.owner} if is_alive(self.study, name)}

    def _orphan(self, row: Row, alive: Collection[str]) -> bool:
        """Whether a launcher had this trial and is gone, and so is the trial's process."""
        had = row.state is State.running or (row.state is State.interrupted and row.owner is not None)
        return had and row.owner not in alive and not is_running(self.study / row.name)


def _left(row: Row) -> Row:
    """What is left of a trial whose launcher and process are gone."""
    return replace(row, state=State.cancelled, owner=None) if row.cancelling else replace(row, state=State.interrupted)


def _queue(connection: sqlite3.Connection, row: Row) -> None:
    own = row.stored()
    connection.execute(
        "UPDATE trials SET state = ?, owner = NULL, error = NULL, cancelling = 0, overrides = ?, id = ?, forks = ?, "
        "demand = ? WHERE name = ?",
        (State.queued.value, *(own[name] for name in ("overrides", "id", "forks", "demand", "name"))),
    )
