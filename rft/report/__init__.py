"""The report of a study: load its trials, summarise them, show them in the terminal, as a page and as Markdown."""

from __future__ import annotations

from rft.report.load import FailedTrial, Rows, StageUse, StudyResults, Trial, load_study
from rft.report.summary import summarise
from rft.report.table import print_table
from rft.report.write import write_report

__all__ = [
    "FailedTrial",
    "Rows",
    "StageUse",
    "StudyResults",
    "Trial",
    "load_study",
    "print_table",
    "summarise",
    "write_report",
]
