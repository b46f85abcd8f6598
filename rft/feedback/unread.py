"""Stops a labelling of which too little could be read to learn from, and shows what was said instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.errors import UserError

if TYPE_CHECKING:
    from rft.feedback.base import Labels

LONGEST = 80  # characters of an answer that is shown


def require_labels(labels: Labels) -> None:
    """Refuse labels of which most are missing, since what the judge said could not be read.

    Raises:
        UserError: if more than half of the pairs have no label, with one of the answers.
    """
    missing, pairs = int(np.isnan(labels.preference).sum()), len(labels.preference)
    if 2 * missing <= pairs:
        return
    work = labels.work
    share = f"{work.excluded} of {work.questions} verdicts" if work.excluded else "what the judge said"
    lost = [said for said, value in zip(labels.raw, labels.preference, strict=True) if np.isnan(value)]
    raise UserError(
        f"judge: {share} could not be read, and {missing} of {pairs} pairs have no label: too few are left; "
        f"{_example(lost)}`rft judge verdicts` shows them; correct the server or the model, ask in another way "
        "(judge.form, judge.answers), raise judge.max_tokens if answers are cut, or choose another judge; what could "
        "be read is kept, and the same command asks for the rest again"
    )


def stood_in(people: float, unread: float, pairs: float) -> str:
    """What unread verdicts took of the pairs that people label where the judge is least sure."""
    left = people - unread
    return (
        f"people labelled {people:.0f} of {pairs:.0f} pairs ({100 * people / pairs:.0f} %), {unread:.0f} of them since "
        f"the judge's verdict could not be read: {left:.0f} ({100 * left / pairs:.0f} %) were left for those of which "
        "it was least sure"
    )


def _example(raw: Sequence[str]) -> str:
    """One of the raw answers that could not be read: the first that says anything; empty if none does."""
    found = [one for said in raw for one in _excluded(json.loads(said))]
    refused = next((str(one["refused"]) for one in found if one.get("refused")), "")
    if refused:
        return f"a question was not taken: {_shortened(refused)}; "
    if declined := next((str(one["declined"]) for one in found if one.get("declined")), ""):
        return f"one answer was declined: “{_shortened(declined)}”; "
    said = [one.get("text") if "text" in one else json.dumps(one.get("logprobs")) for one in found]
    text = next((str(one) for one in said if one and str(one).strip()), None)
    if text is not None:
        return f"one answer was “{_shortened(text)}”; "
    return "the answers were empty; " if found else ""


def _excluded(raw: Any) -> Iterator[dict[str, Any]]:
    """The single answers in a raw one, however deep, that were excluded."""
    if isinstance(raw, dict):
        if raw.get("excluded"):
            yield raw
        else:
            for value in raw.values():
                yield from _excluded(value)


def _shortened(text: str) -> str:
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
