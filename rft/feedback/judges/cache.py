"""Every answer of a judge, kept by the content of the question, so that it need not be asked twice."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rft.errors import UserError
from rft.feedback.judges.request import Reply, Request
from rft.store.locking import file_lock
from rft.store.space import is_shared

SECONDS = 60.0  # to wait while another process writes
AT_ONCE = 500  # keys of one query
MARK = 0x72667456  # "rftV": the application_id of our files
_TABLE = """CREATE TABLE verdicts (
    key TEXT PRIMARY KEY,      -- sha256 of the judge's identity and the request
    asked TEXT NOT NULL,       -- both, as JSON
    reply TEXT NOT NULL,       -- as JSON
    created TEXT NOT NULL      -- UTC
) WITHOUT ROWID"""
_REFUSED = "json_valid({0}) AND coalesce(json_extract({0}, '$.refused'), '') != ''"
_HOLDS = f"""SELECT 1 FROM verdicts WHERE json_extract(asked, '$.judge') = json(?) AND NOT ({_REFUSED.format("reply")})
    LIMIT 1"""
_KEEP = f"""INSERT INTO verdicts VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
    SET reply = excluded.reply, created = excluded.created WHERE {_REFUSED.format("verdicts.reply")}"""
_ROWS = """SELECT asked, reply, created FROM verdicts
    WHERE instr(lower(asked), lower(:find)) OR instr(lower(reply), lower(:find))
    ORDER BY created DESC, key LIMIT :limit"""


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer that is kept."""

    known: dict[str, Any]  # what it depended on besides
    judge: dict[str, Any]  # the backend's identity
    request: Request
    reply: Reply
    created: str  # UTC, ISO 8601


class KeptVerdicts:
    """Replies in an sqlite file that several processes share. A store that cannot be written to can still be read.

    A reply that says why a question was not taken is there to be read (`rows`) alone: it is never found, since a server
    with a longer context may take the question another time, and what that answers takes its place.

    Args:
        path: of the file, made when the first answer is kept.
        known: what the answers depend on that neither the backend nor the request says, such as a model's digest.
        recall: whether to look. Shared stages (labels, revisions, audit) do: one that was killed goes on, and another
            run asks nothing again. In a trial (training, evaluation) a model in this process is asked anew: its answers
            depend on the batch to the last bit, and a trial must not depend on what others have asked. What an
            endpoint has answered is found there too. Without, answers are kept and never found.

    Attributes:
        own: keys of what this object kept, as the object of one stage does: `find_many` tells it from older replies.
    """

    def __init__(self, path: Path, known: Mapping[str, Any], *, recall: bool = True) -> None:
        self.path, self.known, self.recall = path, dict(known), recall
        self.own: set[str] = set()

    def find(self, identity: Mapping[str, Any], request: Request) -> Reply | None:
        """What was answered to the same request before, if anything.

        Raises:
            UserError: if the file is none of kept verdicts, or cannot be read.
        """
        return self.find_many([(identity, request)])[0]

    def find_many(self, asked: Sequence[tuple[Mapping[str, Any], Request]], *, own: bool = False) -> list[Reply | None]:
        """As `find`, of many at once: each by the identity of who is asked and the request.

        Args:
            asked: identity and request of each.
            own: find what this object kept, nothing older.
        """
        if not asked or not self.recall or not self.path.exists():
            return [None] * len(asked)
        keys = [self._address(identity, request)[0] for identity, request in asked]
        wanted = list(self.own & set(keys)) if own else keys
        found: dict[str, Reply] = {}
        with self._told(), closing(self._open_to_read()) as connection:
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                marks = ", ".join("?" * len(part))
                rows = connection.execute(f"SELECT key, reply FROM verdicts WHERE key IN ({marks})", part)
                replies = ((key, _reply(json.loads(reply))) for key, reply in rows)
                found |= {key: reply for key, reply in replies if not reply.refused}
        return [found.get(key) for key in keys]

    def holds(self, identity: Mapping[str, Any]) -> bool:
        """Whether any answer of this judge is kept, whatever it was asked; that it took no question is no answer.

        Raises:
            UserError: if the file is none of kept verdicts, or cannot be read.
        """
        if not self.path.exists():
            return False
        wanted = json.dumps(dict(identity), sort_keys=True, ensure_ascii=False)
        with self._told(), closing(self._open_to_read()) as connection:
            found = connection.execute(_HOLDS, (wanted,))
            return found.fetchone() is not None

    def keep(self, identity: Mapping[str, Any], request: Request, reply: Reply) -> None:
        """Keep an answer at once; the first of two to the same request stays, but for one that was refused.

        Raises:
            UserError: if the file is none of kept verdicts, or cannot be written.
        """
        self.keep_many([(identity, request, reply)])

    def keep_many(self, answered: Sequence[tuple[Mapping[str, Any], Request, Reply]]) -> None:
        """As `keep`, of many in one transaction: all of them are kept, or none."""
        if not answered:
            return
        now, rows = datetime.now(UTC).isoformat(), []
        for identity, request, reply in answered:
            row = (*self._address(identity, request), _written(reply), now)
            rows.append([_encodable(one) for one in row])
        with self._told(), closing(self._open_to_write()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_KEEP, rows)
            connection.execute("COMMIT")
        self.own |= {row[0] for row in rows}

    def replace(self, identity: Mapping[str, Any], request: Request, stale: Reply, reply: Reply) -> None:
        """Keep an answer in the place of one that could not be read; of two that replace the same the first stays.

        Raises:
            UserError: if the file is none of kept verdicts, or cannot be written.
        """
        key, now = self._address(identity, request)[0], datetime.now(UTC).isoformat()
        with self._told(), closing(self._open_to_write()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            there = connection.execute("SELECT reply FROM verdicts WHERE key = ?", (key,)).fetchone()
            if there is not None and _written(_reply(json.loads(there[0]))) == _written(stale):
                wanted = (_encodable(_written(reply)), now, key)
                connection.execute("UPDATE verdicts SET reply = ?, created = ? WHERE key = ?", wanted)
            connection.execute("COMMIT")
        self.own.add(key)

    def rows(self, find: str = "", limit: int | None = None) -> Iterator[Kept]:
        """What is kept, whoever asked, the latest first; of other judges too.

        Args:
            find: text that question, judge or answer must hold, upper and lower case (of ASCII) alike.
            limit: how many at most; all if None.

        Raises:
            UserError: if the file is none of kept verdicts, or cannot be read.
        """
        if not self.path.exists():
            return
        with self._told(), closing(self._open_to_read()) as connection:
            # As it stands in the JSON; a negative limit is none.
            wanted = {"find": json.dumps(find, ensure_ascii=False)[1:-1], "limit": -1 if limit is None else limit}
            for asked, reply, created in connection.execute(_ROWS, wanted):
                whole = json.loads(asked)
                judge, request = whole.pop("judge"), whole.pop("request")
                yield Kept(whole, judge, _request(request), _reply(json.loads(reply)), created)

    def _address(self, identity: Mapping[str, Any], request: Request) -> tuple[str, str]:
        """Key, and what it is the hash of."""
        whole = {**self.known, "judge": dict(identity), "request": asdict(request)}
        asked = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode("utf-8", errors="surrogatepass")).hexdigest(), asked

    def _open_to_write(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._make()
        return self._checked(sqlite3.connect(self.path, timeout=SECONDS, isolation_level=None))

    def _open_to_read(self) -> sqlite3.Connection:
        place = f"file:{quote(str(self.path.absolute()))}?mode="
        # What a writer that was killed had not finished can only be taken back by one who may write.
        for way in ("ro", "rw"):
            with suppress(sqlite3.OperationalError):
                return self._checked(sqlite3.connect(f"{place}{way}", timeout=SECONDS, isolation_level=None, uri=True))
        # Where nothing can be written, the log of other writers cannot be opened: there are none.
        return self._checked(sqlite3.connect(f"{place}ro&immutable=1", isolation_level=None, uri=True))

    def _make(self) -> None:
        """The empty file, whole at once: another process never sees half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with file_lock(f"{self.path}.lock"):
            if self.path.exists():
                return
            beside.unlink(missing_ok=True)
            with closing(sqlite3.connect(beside, isolation_level=None)) as connection:
                if not is_shared(self.path.parent):  # its log is read by memory that machines do not share
                    connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA application_id={MARK}")
                connection.execute(_TABLE)
            beside.replace(self.path)

    def _checked(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """The connection, if the file is ours."""
        try:
            connection.execute(
                "PRAGMA synchronous=NORMAL"
            )  # of a machine that loses power the last answers may be lost
            mark = connection.execute("PRAGMA application_id").fetchone()[0]
            ours = mark == MARK and "verdicts" in _tables(connection)
        except BaseException:
            connection.close()
            raise
        if not ours:
            connection.close()
            raise sqlite3.DatabaseError("it was made by another program")
        return connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the file, said to the user."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path}: cannot be used ({error}); see that you may write there, that the disk has room and that "
                "no other program holds it, then start again"
            ) from error
        except (OSError, PermissionError) as error:
            raise UserError(
                f"{self.path}: cannot be used ({error.strerror}); see that you may write there, then start again"
            ) from error
        except (sqlite3.DatabaseError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: holds no verdicts that can be read ({error}); move it away, and what it held is asked "
                "again"
            ) from error


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _encodable(text: str) -> str:
    """Half a character, which no file can hold, by its number, which JSON reads back."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _request(found: Mapping[str, Any]) -> Request:
    return Request(**{**found, "messages": tuple(found["messages"]), "options": tuple(found["options"])})


def _written(reply: Reply) -> str:
    return json.dumps(asdict(reply), ensure_ascii=False)


def _reply(found: Mapping[str, Any]) -> Reply:
    logprobs = found["logprobs"]
    return Reply(**{**found, "logprobs": None if logprobs is None else tuple(logprobs)})
