"""Every answer of a judge, kept by the content of the question: nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rft.feedback.judges.request import Reply, Request

_TABLE = """CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY,      -- sha256 of the judge's identity and the request
    asked TEXT NOT NULL,       -- both, as JSON
    reply TEXT NOT NULL,       -- as JSON
    created TEXT NOT NULL      -- UTC
) WITHOUT ROWID"""


class KeptVerdicts:
    """Replies in an sqlite file that several processes share.

    Args:
        path: of the file, made if it is not there.
        known: what the answers depend on that neither the backend nor the request says, such as a model's digest.
        recall: whether to look; without, replies are kept and never found, as a model in this process needs whose
            answers depend on the batch to the last bit: a trial must not depend on what others have asked.
    """

    def __init__(self, path: Path, known: Mapping[str, Any], *, recall: bool = True) -> None:
        self.path, self.known, self.recall = path, dict(known), recall

    def find(self, identity: Mapping[str, Any], request: Request) -> Reply | None:
        """What was answered to the same request before, if anything."""
        if not self.recall:
            return None
        key, _ = self._address(identity, request)
        with closing(self._open()) as connection:
            row = connection.execute("SELECT reply FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else _reply(json.loads(row[0]))

    def keep(self, identity: Mapping[str, Any], request: Request, reply: Reply) -> None:
        """Keep an answer at once; the first of two to the same request stays."""
        key, asked = self._address(identity, request)
        row = (key, asked, json.dumps(asdict(reply), ensure_ascii=False), datetime.now(UTC).isoformat())
        with closing(self._open()) as connection:
            connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)", row)

    def _address(self, identity: Mapping[str, Any], request: Request) -> tuple[str, str]:
        """Key, and what it is the hash of."""
        whole = {**self.known, "judge": dict(identity), "request": asdict(request)}
        asked = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode("utf-8", errors="surrogatepass")).hexdigest(), asked

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(_TABLE)
        return connection


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer that was kept."""

    when: str  # UTC, ISO 8601
    judge: Mapping[str, Any]  # the backend's identity
    request: Mapping[str, Any]  # fields of `Request`
    reply: Reply


def kept(path: Path, find: str = "", limit: int = 20) -> list[Kept]:
    """The answers that `KeptVerdicts` left in a file, the latest first; none if there is no file.

    Args:
        path: of the file, which is not changed.
        find: text that question, judge or answer must hold, upper and lower case (of ASCII) alike.
        limit: how many at most.
    """
    if not path.exists():
        return []
    written = json.dumps(find, ensure_ascii=False)[1:-1]  # as it stands in the JSON
    wanted = "instr(lower(asked), lower(:find)) OR instr(lower(reply), lower(:find))"
    query = f"SELECT created, asked, reply FROM verdicts WHERE {wanted} ORDER BY created DESC, key LIMIT :limit"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        rows = connection.execute(query, {"find": written, "limit": limit}).fetchall()
    return [_kept(created, json.loads(asked), json.loads(reply)) for created, asked, reply in rows]


def _kept(when: str, asked: Mapping[str, Any], reply: Mapping[str, Any]) -> Kept:
    return Kept(when, asked["judge"], asked["request"], _reply(reply))


def _reply(found: Mapping[str, Any]) -> Reply:
    logprobs = found["logprobs"]
    return Reply(**{**found, "logprobs": None if logprobs is None else tuple(logprobs)})
