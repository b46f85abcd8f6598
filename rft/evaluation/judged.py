"""A judge's scores of the answers of the final test, beside gold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.base import Answer, Work

if TYPE_CHECKING:
    from rft.feedback.judges.base import Judge

COLUMN = "judge"
"""Of the rows: the score, null where the verdict could not be read."""
TAUGHT = "eval/judge_taught"
"""Of the metrics: 1 if the policy learned from that judge, else 0."""


class JudgedRows:
    """Adds a judge's scores to rows of the final test.

    Args:
        judge: one that scores answers by themselves.
        taught: whether the policy that gave the answers learned from it.
    """

    def __init__(self, judge: Judge, *, taught: bool) -> None:
        self.judge, self.taught = judge, taught
        self.work = Work()

    def add(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add the column ``judge`` to rows; returns its means by split, over the answers whose verdict could be read.

        How many could not be is ``judge_excluded``; a split without any score has no mean.
        """
        verdicts = self.judge.score([Answer(row["prompt"], row["response"]) for row in rows])
        self.work = verdicts.work
        for row, score in zip(rows, verdicts.scores, strict=True):
            row[COLUMN] = float(score) if np.isfinite(score) else None
        metrics: dict[str, Any] = {TAUGHT: float(self.taught)}
        for split in dict.fromkeys(row["split"] for row in rows):
            scores = [row[COLUMN] for row in rows if row["split"] == split]
            known = [score for score in scores if score is not None]
            if known:
                metrics[f"eval/{split}/{COLUMN}"] = sum(known) / len(known)
            metrics[f"eval/{split}/{COLUMN}_excluded"] = float(len(scores) - len(known))
        return metrics

    @property
    def cost(self) -> dict[str, Any]:
        """What asking took, for the entry's cost. It measures: no budget counts it."""
        work = self.work
        used = {"judge_read": work.read, "judge_written": work.written, "judge_money": work.money}
        return {"kept": work.kept, "judge_seconds": work.seconds, **used}
