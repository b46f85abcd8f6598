"""What an audit asks a judge, and what it answered. Dimensions: ``M`` pairs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.feedback.attacks import ATTACKS, CONTROL, with_suffix
from rft.feedback.base import Answer, Work, or_none
from rft.feedback.judges.base import Judge, score_pairs
from rft.feedback.ratings import HumanPairs, Ratings, human_pairs
from rft.store.names import ORDERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLEAR_GAP = 3.0
"""Rating points, of eight, between the means of a clearly ordered pair."""


@dataclass(frozen=True, slots=True)
class Own:
    """A response of the start policy, and what people wrote after the same question."""

    prompt_id: str
    policy: Answer
    human: Answer


@dataclass(frozen=True, slots=True)
class Case:
    """A pair of texts, and what else is known of it."""

    kind: str  # rated, again, self or attack
    ids: tuple[str, str]
    answers: tuple[Answer, Answer]
    human: bool | None = None  # whether people prefer the first
    attack: str | None = None  # what the second text was given
    means: tuple[float, float] | None = None  # people's mean ratings of both; of a text without what an attack added


@dataclass(frozen=True, slots=True)
class Answered:
    """What the judge said of some cases."""

    orders: NDArray[np.float64]  # [M, 2] P(first is better) where it was shown first, second
    raw: Sequence[Mapping[str, Any]]  # [M]
    scores: Mapping[Answer, float] | None  # of a judge that sees one at a time
    work: Work
    seconds: float  # of wall clock

    @property
    def preference(self) -> NDArray[np.float64]:
        """The mean of both orders. Shape [M]."""
        mean: NDArray[np.float64] = self.orders.mean(axis=1)
        return mean


def ask(judge: Judge, cases: Sequence[Case]) -> Answered:
    """The judge's verdicts: by scores if it sees one at a time, each text once; else each pair in both orders.

    No pair is judged together with another one: a judge that ranks lists gets one for each pair.
    """
    if not cases:
        return Answered(np.empty((0, 2)), [], None, Work(), 0.0)
    start = time.perf_counter()
    rows = {answer: row for row, answer in enumerate(dict.fromkeys(a for case in cases for a in case.answers))}
    answers, pairs = list(rows), np.array([[rows[a] for a in case.answers] for case in cases], dtype=np.int64)
    if not judge.one_by_one:
        found = judge.pair_by_pair().compare(answers, pairs)
        return Answered(found.orders, found.raw, None, found.work, time.perf_counter() - start)
    given = score_pairs(judge.score, answers, pairs)
    orders, scores = (
        np.repeat(given.preference[:, None], 2, axis=1),
        dict(zip(rows, given.scores.tolist(), strict=True)),
    )
    return Answered(orders, given.raw, scores, given.work, time.perf_counter() - start)


def rated_cases(ratings: Ratings, rated: HumanPairs) -> list[Case]:
    """The pairs that people rated, in their order."""
    means = ratings.means.tolist()
    return [
        Case(
            "rated", (f"snippet-{a}", f"snippet-{b}"), _answers(ratings, a, b), bool(first), means=(means[a], means[b])
        )
        for (a, b), first in zip(rated.pairs.tolist(), rated.first_better, strict=True)
    ]


def _answers(ratings: Ratings, a: int, b: int) -> tuple[Answer, Answer]:
    return Answer("", ratings.texts[a]), Answer("", ratings.texts[b])


def attack_cases(ratings: Ratings, n: int, seed: int) -> Iterator[Case]:
    """`n` clearly ordered pairs, better first: each as it is, with the control and with each attack on the worse."""
    if not n:
        return
    clear, rated = human_pairs(ratings, n, seed, CLEAR_GAP), ratings.means.tolist()
    for pair, first in zip(clear.pairs.tolist(), clear.first_better, strict=True):
        a, b = pair if first else pair[::-1]
        better, worse = _answers(ratings, a, b)
        ids, means = (f"snippet-{a}", f"snippet-{b}"), (rated[a], rated[b])
        yield Case("attack", ids, (better, worse), True, means=means)
        for name, suffix in (("control", CONTROL), *((name, one.text) for name, one in ATTACKS.items())):
            yield Case("attack", ids, (better, Answer("", with_suffix(worse.response, suffix))), True, name, means)


def write_pairs(parts: Sequence[tuple[Sequence[Case], Answered, NDArray[np.float64]]], path: Path) -> None:
    """A row for each pair that the judge was asked about."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "kind": case.kind,
            "attack": case.attack,
            "first_id": case.ids[0],
            "second_id": case.ids[1],
            "prompt": case.answers[0].prompt,
            "first": case.answers[0].response,
            "second": case.answers[1].response,
            **{name: or_none(p) for name, p in zip(ORDERS, asked.orders[m], strict=True)},
            "human_first": case.human,
            "first_mean": case.means[0] if case.means else None,
            "second_mean": case.means[1] if case.means else None,
            "gold_first": None if gold[m] == 0.5 else bool(gold[m]),
            "raw": json.dumps(asked.raw[m], ensure_ascii=False),
        }
        for cases, asked, gold in parts
        for m, case in enumerate(cases)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
