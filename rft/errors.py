"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping


class UserError(Exception):
    """A fault in what the user gave: shown as one line (what, where, how to mend), exit code 2.

    Everything else that is raised is a fault of the program and keeps its traceback.
    """


class TrainingDiverged(UserError):
    """The loss is NaN or infinite: the trial stops at that step and keeps its last good checkpoint."""


def nearest(name: str, valid: Collection[str] | Mapping[str, str]) -> str:
    """The mend of a wrong name: the valid one that is nearest, or all of them; of a mapping, what to write for it."""
    if not valid:
        return "there is none to set"
    to_write = valid if isinstance(valid, Mapping) else {one: one for one in valid}
    folded = {one.casefold(): one for one in sorted(to_write, reverse=True)}
    close = difflib.get_close_matches(name.casefold(), sorted(folded), n=1, cutoff=0.5)
    return (
        f"did you mean {to_write[folded[close[0]]]!r}?"
        if close
        else f"valid are {', '.join(sorted(to_write.values()))}"
    )
