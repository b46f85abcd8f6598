"""Labels that a judge at an endpoint gives, by ``rft`` in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from tests.integration.harness import TINY, Outcome, Warm
from tests.openai_server import MODEL

KEY = "sk-test-4f9a1c77e2d84b06"
STUDY = ("feedback=ai", "candidates.pairs_per_prompt=1", "study=s", *TINY)
QUESTIONS = 64  # 32 pairs in both orders


class Endpoint(Protocol):
    """Whatever listens."""

    @property
    def url(self) -> str: ...


class Labelling:
    """``rft run until=preferences`` with the judge at an endpoint, in a folder and a store of its own."""

    def __init__(self, warm: Warm, candidates: Path, folder: Path) -> None:
        self.warm, self.cwd, self.store = warm, folder, folder / "store"
        shutil.copytree(candidates, self.store)

    def start(self, server: Endpoint, *more: str, key: str = KEY, until: str = "preferences") -> int:
        """Start it, and return its process's id; `wait` says how it ended."""
        arguments = [
            *("run", f"until={until}", *STUDY, "judge=openai", f"judge.model={MODEL}"),
            *(f"judge.base_url={server.url}", "judge.key_env=JUDGE_KEY", "judge.patience=60", *more),
        ]
        return self.warm.start(arguments, self.cwd, self.store, JUDGE_KEY=key, NO_PROXY="127.0.0.1")

    def wait(self) -> Outcome:
        return self.warm.wait()

    def __call__(self, server: Endpoint, *more: str, key: str = KEY, until: str = "preferences") -> Outcome:
        self.start(server, *more, key=key, until=until)
        return self.wait()

    def labels(self) -> list[dict[str, Any]]:
        """Of the first entry of the preferences, without the scores, of which a judge of pairs has none."""
        found = min(self.store.glob("preferences/*/labels.parquet"), key=lambda path: path.stat().st_mtime_ns)
        rows: list[dict[str, Any]] = pq.read_table(found).to_pylist()
        return [{name: value for name, value in row.items() if not name.endswith("_score")} for row in rows]
