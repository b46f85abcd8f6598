"""Names of the files of a trial that one layer writes and another reads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

RECORD = "trial.json"
"""A trial's record, in its folder under `runs/`."""
ROWS_FILE = "evaluation.parquet"
"""The rows of the final test, in the evaluation's entry."""
SAMPLES_FILE = "samples.json"
"""In a trial's folder, if a tracker shows them: some answers of each evaluation (``rft.evaluation.samples``)."""
HISTORY_FILE = "history.json"
"""In a policy's entry: one row of metrics for each Lightning epoch of its training."""
CURVES_FILE = "curves.jsonl"
"""In a trial's folder while it trains: the rows of its history so far, one a line (``rft.callbacks.curves``)."""
DISTRIBUTIONS_FILE = "distributions.json"
"""Beside it from the end of training on, if a tracker is told of them: how rewards, ratios and so on were distributed
(``rft.callbacks.distributions``)."""
PROGRESS_FILE = "progress.json"
"""Beside it, if a launcher has started the trial: the state of its progress bar (``rft.progress``)."""
CHECKPOINTS_FILE = "checkpoints.parquet"
"""Beside the rows of the final test: those of the points of training that were tested."""
ORDERS = ("shown_first", "shown_second")
"""Columns of the labels of a judge that is asked in both orders: P(first is better), shown first and second."""
LABELLER = "labeller"
"""Column of the labels of a source with several labellers: who gave the preference."""
SCORES_FILE = "scores.parquet"
"""The reward source's raw scores of the candidates, by their row, in its entry."""
AUDIT_FILE = "audit.json"
"""The figures of the audit of a judge, in its entry."""
VERDICTS_FILE = "verdicts.sqlite"
"""Beside the stages: what judges answered."""
SPENDING_FILE = "spending.sqlite"
"""Beside that: what endpoints were paid for it."""
STUDY = "study.yaml"
"""In a folder: the study that it is named by."""
PLAN = "planned.json"
"""In a study's folder: what was put into its ledger, so that nothing is lost with it."""
INTERRUPTED = "interrupted; "
"""What the error in a record begins with, if the trial was stopped and can go on."""
LONGEST_TRIAL = 120
"""Bytes of a trial's name, which is a folder's, at most."""
TRIAL = re.compile(r"(?P<arm>.+)-s(?P<seed>\d+)-[0-9a-f]{8}")


def trial_name(arm: str, seed: int, identity: str) -> str:
    """``<arm>-s<seed>-<identity>``: the name of a trial and of its folder under its study's.

    A long arm is cut, and what was cut off it goes on as a digest: two arms never share a folder.

    Args:
        arm: the arm's name.
        seed: the trial's seed.
        identity: 8 hex digits over its settings (``rft.study.identity``).
    """
    rest = f"-s{seed}-{identity}"
    room = LONGEST_TRIAL - len(rest)
    if len(arm.encode()) > room:
        digest = hashlib.sha256(arm.encode()).hexdigest()[:8]
        arm = f"{arm.encode()[: room - 9].decode(errors='ignore')}-{digest}"
    return f"{arm}{rest}"


def older_name(arm: str, seed: int | str) -> str:
    """A trial's folder, below its study's, as trials had it whose name holds no digest of their settings."""
    return f"{arm}/seed-{seed}"


def study_name(path: Path) -> str:
    """The name of a study.

    Args:
        path: its file, or the folder that its `STUDY` lies in.
    """
    file = path / STUDY if path.is_dir() else path
    return file.resolve().parent.name if file.name == STUDY else file.stem
