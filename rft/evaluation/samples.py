"""Some answers of each evaluation, beside the SFT policy's to the same prompts, for people to read.

They are no result: nothing is computed from them, and the store has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.store.whole import write_whole

if TYPE_CHECKING:
    from rft.evaluation.evaluate import FinalTest

SFT = "sft_response"
COLUMNS = ("prompt_id", "prompt", "response", SFT, "gold", "proxy", "kl", "length", "truncated")
"""Of a table of the final test; a table of points of training has ``step`` and ``split`` before them."""
POINT = ("step", "split")


def first_of(rows: Sequence[Mapping[str, Any]], prompts: int) -> list[Mapping[str, Any]]:
    """The first answer to each of the first prompts of each split."""
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        if row["sample"] == 0 and seen.setdefault(row["split"], 0) < prompts:
            seen[row["split"]] += 1
            found.append(row)
    return found


class Samples:
    """Takes them as an evaluation goes on, and keeps them in a file.

    Args:
        prompts: of each split that are shown.
        file: where, so that a trial that is killed before its tracker knows them finds them again.
    """

    def __init__(self, prompts: int, file: Path) -> None:
        self.prompts, self.file = prompts, file
        self._answers: dict[tuple[str, Any], str] = {}
        self._points: list[dict[str, Any]] = []

    def ask(self, test: FinalTest) -> None:
        """Let the SFT policy answer; the engine must have its weights still.

        They are drawn with the numbers of the final test's first answers, as the SFT policy would be tested itself.
        """
        for split in test.config.splits:
            self._answers |= {(split, prompt): text for prompt, text in test.answers(split, self.prompts).items()}

    def _beside(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        shown = first_of(rows, self.prompts)
        return [{**row, SFT: self._answers.get((row["split"], row["prompt_id"]))} for row in shown]

    def at_point(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Take rows of a point of training."""
        self._points += [row | {"step": step} for row in self._beside(rows)]

    def at_end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of the final test, and write the file."""
        with suppress(OSError):  # no evaluation fails for want of them
            write_whole(self.file, json.dumps({"points": self._points, "final": self._beside(rows)}).encode())


def tables(
    file: Path, rows: Sequence[Mapping[str, Any]], prompts: int
) -> Iterator[tuple[str, tuple[str, ...], list[list[Any]]]]:
    """Name, columns and rows of each table: one of the final test for each split, and one of all points of training.

    Args:
        file: what `Samples` has written. Of an evaluation that another trial has computed there is none, and the SFT
            policy's answers are left open.
        rows: of the final test, from the store.
        prompts: of each split that are shown.
    """
    taken = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"points": [], "final": []}
    final = taken["final"] or [{**row, SFT: None} for row in first_of(rows, prompts)]
    for split in dict.fromkeys(row["split"] for row in final):
        yield f"samples_{split}", COLUMNS, [[row[c] for c in COLUMNS] for row in final if row["split"] == split]
    if taken["points"]:
        columns = (*POINT, *COLUMNS)
        yield "samples_training", columns, [[row[c] for c in columns] for row in taken["points"]]
