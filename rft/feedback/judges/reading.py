"""Reads verdicts from what a judge wrote; what is not plainly a verdict is none: nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

_AROUND = r"[\s*_`\"'“”‘’()\[\].,!]*"  # quotes, brackets and marks of emphasis; no colon: "Response A:" is a heading
_WORDS = "the|my|final|verdict|answer|response|option|choice|score|rating|ranking|is"
_LEAD = rf"(?:(?:(?:{_WORDS})\b|response-(?=[A-Z]\b))[\s*_`\"':=]*)*"
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_MARK = re.compile(r"\bverdict\b", re.IGNORECASE)
_TIES = {"tie", "draw", "equal"}


def _stated(text: str, verdict: str, marked: bool) -> list[str]:
    """What stands for `verdict` in the line that states it: the last that says "Verdict", else the first line.

    Args:
        text: what was written.
        verdict: a regular expression.
        marked: whether only a line that says "Verdict" counts, since a thought stands before it.
    """
    whole = re.compile(rf"{_AROUND}{_LEAD}{_AROUND}({verdict}){_AROUND}", re.IGNORECASE)
    lines = [line for line in text.splitlines() if line.strip()]
    stating = [line for line in lines if _MARK.search(line)][-1:] or ([] if marked else lines[:1])
    found = [whole.fullmatch(line) for line in stating]
    return [match.group(1) for match in found if match is not None]


def stated_before_cut(text: str, marked: bool) -> str:
    """Of a text that came to no end: its first line that may state a verdict, if that is whole; else nothing.

    Args:
        text: what was written.
        marked: whether only a line that says "Verdict" counts.
    """
    whole = [line for line in text.splitlines(keepends=True) if line.strip() and line != line.rstrip("\r\n")]
    return next((line for line in whole if not marked or _MARK.search(line)), "")


def read_winner(text: str, marked: bool) -> tuple[float] | None:
    """P(A is better): 1, 0, or ½ for an explicit tie."""
    for found in _stated(text, f"A|B|{'|'.join(sorted(_TIES))}", marked):
        return (0.5,) if found.lower() in _TIES else (float(found.upper() == "A"),)
    return None


def read_scale(text: str, options: Sequence[str], marked: bool) -> tuple[float] | None:
    """A number between the first and the last option, alone or as in 4/5 or 4 out of 5."""
    lowest, highest = float(options[0]), float(options[-1])
    for found in _stated(text, rf"(?<!\.)[-+]?{_NUMBER}(?:\s*(?:/|out of)\s*{_NUMBER})?", marked):
        number, _, out_of = re.sub(r"\s*out of\s*", "/", found, flags=re.IGNORECASE).partition("/")
        if (not out_of or float(out_of) == highest) and lowest <= float(number) <= highest:
            return (float(number),)
    return None


def read_ranking(text: str, labels: Sequence[str], marked: bool) -> tuple[float, ...] | None:
    """The place of each label, 0 for the best, equals alike; None unless each is named once."""
    label = f"[{''.join(labels)}]"
    for found in _stated(text, rf"{label}(?:\s*[>=,]\s*{label})*", marked):
        tiers = [re.findall(r"[A-Z]", tier) for tier in re.split(r"[>,]", found.upper())]
        places = [(name, float(place)) for place, tier in enumerate(tiers) for name in tier]
        if sorted(name for name, _ in places) == sorted(labels):
            return tuple(dict(places)[name] for name in labels)
    return None
