"""Errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A fault in what the user gave: shown as one line (what, where, how to mend), exit code 2.

    Everything else that is raised is a fault of the program and keeps its traceback.
    """


class TrainingDiverged(UserError):
    """The loss is NaN or infinite: the trial stops at that step and keeps its last good checkpoint."""
