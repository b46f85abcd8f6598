"""Every answer of a judge, kept by the content of the question: nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
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


def _reply(found: Mapping[str, Any]) -> Reply:
    logprobs = found["logprobs"]
    return Reply(**{**found, "logprobs": None if logprobs is None else tuple(logprobs)})
