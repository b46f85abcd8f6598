"""What is there of a trial that ended, and whether it need not be started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rft.store import Entry, Store
from rft.store.names import RECORD
from rft.study.trial import write_json
from rft.study.versions import versions


def record_of(folder: Path) -> dict[str, Any]:
    """A trial's record; empty if there is none that can be read."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stamp(folder: Path) -> tuple[int, int] | None:
    """What tells a trial's record from one that is written later; None if there is none."""
    try:
        found = (folder / RECORD).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def is_finished(folder: Path, store: Store) -> bool:
    """Whether a trial's record says that it is done, its evaluation is sound in the store, and the code is the same."""
    record = record_of(folder)
    if record.get("status") != "done" or record.get("versions") != versions():
        return False
    try:
        return isinstance(store.inspect("evaluation", str(record.get("evaluation"))), Entry)
    except ValueError:
        return False


def retire(folder: Path, reason: str) -> None:
    """Let no record of an earlier start pass for one that was killed before it could write its own."""
    kept = record_of(folder)
    if kept.get("status") == "done":
        write_json(folder / RECORD, kept | {"status": "failed", "error": reason})


def tail(log: Path, lines: int = 12) -> list[str]:
    """The last lines of what a trial printed."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return [line for line in text.splitlines() if line.strip()][-lines:] or ["no output"]
