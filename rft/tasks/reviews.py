"""Film reviews: cleaned, without duplicates, divided for good between the gold reward and everything else."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from rft.errors import UserError

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Review:
    """A cleaned text. `label` is 1 for positive; `source` is ``imdb`` or ``rotten_tomatoes``."""

    review_id: str
    text: str
    label: int
    source: str


def clean(text: str) -> str:
    """`text` on one line, without HTML line breaks, control characters and runs of blanks."""
    # C1 controls are Windows-1252 quotes and dashes that were read as Latin-1.
    text = _CONTROL.sub(_from_windows, _BREAK.sub(" ", text))
    return " ".join(text.split())


def _from_windows(match: re.Match[str]) -> str:
    character = match.group()
    if character < "\x80":
        return " "
    return character.encode("latin-1").decode("cp1252", errors="ignore")


def review_id(text: str, source: str) -> str:
    """`source` and 16 hex digits over the letters and digits of `text`: equal for texts that read alike."""
    normal = re.sub(r"\W+", " ", text.casefold()).strip()
    return f"{source}-{hashlib.sha256(normal.encode()).hexdigest()[:16]}"


def load_reviews(path: Path) -> list[Review]:
    """The distinct reviews of a CSV with the columns text, label (0 or 1) and source, in file order.

    Of texts with equal `review_id` the first stays; texts with nothing left after cleaning go.
    """
    found: dict[str, Review] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = clean(row["text"])
            identity = review_id(text, row["source"])
            if text and identity not in found:
                found[identity] = Review(identity, text, int(row["label"]), row["source"])
    return list(found.values())


def balanced_order(reviews: Sequence[Review], seed: int) -> list[Review]:
    """`reviews` in random order with labels 1, 0, 1, 0, …; what exceeds the rarer label is left out."""
    queues = []
    for label in (1, 0):
        group = [review for review in reviews if review.label == label]
        order = np.random.default_rng([seed, label]).permutation(len(group))
        queues.append([group[i] for i in order])
    return list(chain.from_iterable(zip(*queues, strict=False)))


def check_disjoint(splits: Mapping[str, Sequence[str]], what: str = "review") -> None:
    """Raises UserError if an id stands in two of `splits`, with both names and the id."""
    owner: dict[str, str] = {}
    for name, ids in splits.items():
        for identity in ids:
            other = owner.setdefault(identity, name)
            if other != name:
                raise UserError(
                    f"{what} {identity} is in both {other} and {name}: splits must be disjoint; "
                    "remove it from one of them"
                )
