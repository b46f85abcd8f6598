"""What came of one question to a language model, and which questions a listwise judge puts. ``M`` pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.base import Answer, Work
from rft.feedback.judges.prompts import Question, is_scale
from rft.feedback.judges.request import Reply

if TYPE_CHECKING:
    from numpy.typing import NDArray

Said = tuple[Reply, bool]  # a reply, and whether it was kept from before


@dataclass(slots=True)
class Asked:
    """A question on its way to a verdict."""

    question: Question
    thought: str | None = None  # that came before the verdict was asked for
    asked: int = 0  # times, for the verdict
    replies: list[Said] = field(default_factory=list)  # thoughts included
    value: tuple[float, ...] | None = None  # as read: log-probabilities of the options, or what the text says

    def score(self) -> float:
        """Pointwise: of the scale or, from two log-probabilities, their difference; NaN: excluded."""
        if self.value is None:
            return math.nan
        if self._text is not None:
            return self.value[0]
        if len(self.value) == 2:
            return self.value[1] - self.value[0]
        labels = self.question.labels
        scale = [float(label) for label in labels] if is_scale(labels) else range(1, len(labels) + 1)
        return math.fsum(s * p for s, p in zip(scale, _softmax(self.value), strict=True))

    def first(self) -> float:
        """Pairwise: P(what is shown first is better); NaN: excluded."""
        if self.value is None:
            return math.nan
        return self.value[0] if self._text is not None else _softmax(self.value)[0]

    def ranked(self, a: int, b: int) -> float:
        """Listwise: whether what is shown at place `a` is better than what is at `b`, ½ for equals; NaN: excluded."""
        if self.value is None:
            return math.nan
        return 0.5 * (1 + float(np.sign(self.value[b] - self.value[a])))

    def raw(self) -> dict[str, Any]:
        """What was said, as JSON."""
        logprobs, found = self.replies[-1][0].logprobs, dict[str, Any]()
        if logprobs is not None:
            known = [p if math.isfinite(p) else None for p in logprobs]
            found["logprobs"] = dict(zip(self.question.labels, known, strict=False))
        else:
            found["text"] = self.replies[-1][0].text
        found |= {} if self.thought is None else {"thought": self.thought}
        found |= {"principles": list(self.question.principles)} if self.question.principles else {}
        found |= {"refused": self.refused} if self.refused else {}
        found |= {"declined": self.replies[-1][0].declined} if self.replies[-1][0].declined else {}
        found |= {"retried": True} if self.asked > 1 else {}
        return found | ({"excluded": True} if self.value is None else {})

    @property
    def refused(self) -> str:
        """Why the backend does not take the question; empty if it does."""
        return self.replies[-1][0].refused if self.replies else ""

    @property
    def _text(self) -> str | None:
        """What was written as the verdict; None if it was read from log-probabilities."""
        return self.replies[-1][0].text if self.replies[-1][0].logprobs is None else None


def readable(logprobs: Sequence[float] | None, options: int, *, finite: bool) -> tuple[float, ...] | None:
    """The log-probabilities, if there is one for each option; else None.

    At least one of them must be possible, or with `finite` all, as a difference of two needs.
    """
    if logprobs is None or len(logprobs) != options or any(math.isnan(p) or p == math.inf for p in logprobs):
        return None
    least = min(logprobs) if finite else max(logprobs)
    return tuple(logprobs) if least > -math.inf else None


def _softmax(logprobs: Sequence[float]) -> list[float]:
    highest = max(logprobs)
    weights = [math.exp(p - highest) for p in logprobs]
    return [weight / math.fsum(weights) for weight in weights]


def work_of(replies: Sequence[Sequence[Said]]) -> Work:
    """What it took: the replies to each question, where a kept one counts as when it was asked."""
    every = [reply for one in replies for reply, _ in one]
    paid = [reply.money for reply in every if reply.money is not None]
    return Work(
        questions=len(replies),
        kept=sum(all(kept for _, kept in one) for one in replies),
        read=sum(reply.read for reply in every),
        written=sum(reply.written for reply in every),
        seconds=math.fsum(reply.seconds for reply in every),
        money=math.fsum(paid) if paid else None,
        flops=math.fsum(reply.flops for reply in every),
        unpriced=sum(reply.read + reply.written for reply in every if reply.money is None) if paid else 0,
    )


@dataclass(frozen=True, slots=True)
class Ranked:
    """Answers that are ranked at once."""

    rows: list[int]  # of the answers, in the order given
    places: Mapping[int, tuple[int, int]]  # of each pair that the list decides: where its two answers stand


def to_lists(answers: Sequence[Answer], pairs: NDArray[np.int64], size: int) -> list[Ranked]:
    """The distinct answers that `pairs` name, by prompt, in lists of at most `size`.

    A pair of answers to two prompts is a list of its own; a pair of equal answers is in none.
    """
    first_row: dict[Answer, int] = {}
    for row in np.unique(pairs).tolist():
        first_row.setdefault(answers[row], row)
    done: list[tuple[set[int], dict[int, tuple[int, int]]]] = []
    filling: dict[str, tuple[set[int], dict[int, tuple[int, int]]]] = {}
    for m, (i, j) in enumerate(pairs.tolist()):
        a, b = first_row[answers[i]], first_row[answers[j]]
        if a == b:
            continue
        prompt = answers[a].prompt
        open_one = filling.get(prompt) if prompt == answers[b].prompt else None
        if open_one is None or len(open_one[0] | {a, b}) > size:
            open_one = (set(), {})
            done.append(open_one)
            if prompt == answers[b].prompt:
                filling[prompt] = open_one
        open_one[0].update((a, b))
        open_one[1][m] = (a, b)
    found = []
    for members, decided in done:
        rows = sorted(members)
        place = {row: at for at, row in enumerate(rows)}
        found.append(Ranked(rows, {m: (place[a], place[b]) for m, (a, b) in decided.items()}))
    return found
