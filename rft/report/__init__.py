"""The report of a study: load its trials, summarise them, show them in the terminal and as one HTML file."""

from __future__ import annotations

from rft.report.html import write_report
from rft.report.load import FailedTrial, Rows, StageUse, StudyResults, Trial, load_study
from rft.report.summary import summarise
from rft.report.table import print_table

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
