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
    return record_of(folder).get("versions") == versions() and has_results(folder, store)


def has_results(folder: Path, store: Store) -> bool:
    """Whether a trial's record says that it is done, and its evaluation is sound in the store, whatever made it."""
    record = record_of(folder)
    if record.get("status") != "done":
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


def last_words(error: str) -> str:
    """What ended a trial, in a line: of a traceback the line that names the exception, else the last one."""
    lines = [line for line in error.splitlines() if line.strip()] or [""]
    frames = [at for at, line in enumerate(lines) if line.startswith("  ")]
    whole = lines[0].startswith("Traceback") and frames and frames[-1] + 1 < len(lines)
    return lines[frames[-1] + 1] if whole else lines[-1]


def tail(log: Path, lines: int = 12) -> list[str]:
    """The last lines of what a trial printed."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return [line for line in text.splitlines() if line.strip()][-lines:] or ["no output"]
