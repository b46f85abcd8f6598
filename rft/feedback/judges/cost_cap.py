"""What has been spent on a model at an endpoint, so that a cost cap holds whatever runs at once."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rft.errors import UserError

SECONDS = 60.0
"""To wait while another process writes."""
_TABLE = """CREATE TABLE IF NOT EXISTS spending (
    model TEXT NOT NULL,
    spender TEXT NOT NULL,     -- one for each object that spends
    money REAL NOT NULL,       -- spent, and set aside for what is in flight
    PRIMARY KEY (model, spender)
) WITHOUT ROWID"""


class CostCap:
    """Limits what is spent on the questions put to one model, counted in an sqlite file that processes share.

    What a process that was killed had set aside stays counted: it may have been asked for.

    Args:
        path: of the file, made if it is not there.
        model: its name.
        cap: what may be spent in all; None: as much as it takes.
    """

    def __init__(self, path: Path, model: str, cap: float | None) -> None:
        self.path, self.model, self.cap = path, model, cap
        self._spender = uuid.uuid4().hex
        self._settled = threading.Condition()
        self._in_flight = 0

    def reserve(self, most: float, gone: threading.Event) -> None:
        """Set money aside; if it does not fit, first wait for what is in flight to cost less than was set aside.

        Args:
            most: what a question can cost.
            gone: ends the waiting.

        Raises:
            UserError: if it does not fit and nothing is in flight.
        """
        with self._settled:
            while (spent := self._add(most)) is not None:
                if self._in_flight == 0 or gone.is_set():
                    raise UserError(
                        f"judge.max_money={self.cap:g}: {spent:.4g} have been spent on {self.model} from this store, "
                        f"and the next question may cost {most:.2g}; raise it"
                    )
                self._settled.wait(0.2)
            self._in_flight += 1

    def settle(self, reserved: float, cost: float) -> None:
        """Put back what a question has not cost of the money that was set aside for it."""
        with self._settled:
            self._in_flight -= 1
            with self._open() as connection:
                connection.execute(
                    "UPDATE spending SET money = money + ? WHERE model = ? AND spender = ?",
                    (cost - reserved, self.model, self._spender),
                )
            self._settled.notify_all()

    @property
    def spent(self) -> float:
        """By all processes, with what they have set aside."""
        with self._open() as connection:
            return self._sum(connection)

    def _add(self, most: float) -> float | None:
        """Take the money, unless it is too much: then what has been spent."""
        with self._open() as connection:
            spent = self._sum(connection)
            if self.cap is not None and spent + most > self.cap:
                return spent
            connection.execute(
                "INSERT INTO spending VALUES (?, ?, ?) "
                "ON CONFLICT (model, spender) DO UPDATE SET money = money + excluded.money",
                (self.model, self._spender, most),
            )
        return None

    def _sum(self, connection: sqlite3.Connection) -> float:
        row = connection.execute("SELECT SUM(money) FROM spending WHERE model = ?", (self.model,)).fetchone()
        return float(row[0] or 0.0)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The file, for one transaction that no other process can come between.

        Raises:
            UserError: if it cannot be used, or is no such file.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=SECONDS, isolation_level=None)) as connection:
                connection.execute(_TABLE)
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.OperationalError, OSError) as error:
            raise UserError(
                f"{self.path}: cannot be used ({error}); see that you may write there, that the disk has room and that "
                "no other program holds it, then start again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path}: holds no spending that can be read ({error}); move it away: what it held is then no "
                "longer counted towards judge.max_money"
            ) from error
