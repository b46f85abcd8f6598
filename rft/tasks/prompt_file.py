"""A user's own practice questions: one JSON object a line, with ``text`` and ``split``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rft.errors import UserError
from rft.tasks.base import SPLITS


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A line of a prompt file; `line` counts from 1."""

    line: int
    split: str
    text: str


def read_prompt_file(path: Path) -> list[PromptRow]:
    """The rows of a JSONL file like ``{"text": "The acting in this", "split": "train"}``.

    Raises:
        UserError: naming file and line, for a line that is no JSON object, a text that is missing or empty,
            an unknown split, or a text that stands there twice; naming the split, if one is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise UserError(f"task.prompt_file={path}: {reason}; give a readable JSONL file") from error
    # Not splitlines(): JSON strings may hold U+2028, U+0085 and the like as they are.
    lines = text.removesuffix("\n").split("\n") if text else []
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1)]
    first: dict[str, PromptRow] = {}
    for row in rows:
        other = first.setdefault(row.text, row)
        if other is not row:
            raise UserError(
                f"{path}:{row.line}: the same text as in line {other.line} ({other.split}); remove one of the two"
            )
    for split in SPLITS:
        if not any(row.split == split for row in rows):
            raise UserError(f'{path}: the split {split} is empty; add lines with "split": "{split}"')
    return rows


def _row(path: Path, number: int, line: str) -> PromptRow:
    where = f"{path}:{number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        reason = "an empty line" if not line.strip() else f"not JSON ({error})"
        raise UserError(f'{where}: {reason}; write {{"text": "...", "split": "train"}}') from error
    if not isinstance(value, dict):
        raise UserError(f'{where}: not a JSON object; write {{"text": "...", "split": "train"}}')
    text, split = value.get("text"), value.get("split")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'{where}: "text" is missing or empty; give the prompt as a string')
    if split not in SPLITS:
        raise UserError(f'{where}: "split" is {split!r}; give one of {", ".join(SPLITS)}')
    return PromptRow(number, split, text)
