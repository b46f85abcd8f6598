"""Mixed feedback: who labels which pair, and that all that is said and counted adds up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft.config import compose, to_config
from rft.errors import UserError
from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.base import Answer, Work, check_pairs
from rft.feedback.judges.base import Comparisons, Judge
from rft.feedback.judges.simulated import Config as JudgeConfig
from rft.feedback.judges.simulated import FormEnum, SimulatedJudge
from rft.feedback.mixed import Config, Mixed
from rft.feedback.pairs import Pair, write_pairs
from rft.feedback.simulated import Config as PeopleConfig
from rft.feedback.simulated import Simulated
from rft.report.feedback import excluded
from rft.study.shared import make_labels
from rft.tasks.tfidf import TfidfGold
from rft.testing.parts_judge import feedback_rows

GOLD = TfidfGold({"good": 0, "bad": 1, "warm": 2, "worst": 3}, np.ones(4), np.array([2.0, -1.0, 1.0, -3.0]), 0.0)
PEOPLE = AnnotatorModel(slope=1.0, intercept=0.0, bias_sd=0.7, noise_sd=0.8)


class Known(Judge):
    """Says what it was given, pair by pair; NaN is a verdict that could not be read."""

    def __init__(self, *preferences: float) -> None:
        self.preferences = np.array(preferences)

    def compare(self, answers: Sequence[Answer], pairs: Any) -> Comparisons:
        check_pairs(answers, pairs)
        orders = np.repeat(self.preferences[:, None], 2, axis=1)
        excluded = int(np.isnan(self.preferences).sum())
        work = Work(2 * len(pairs), retried=excluded, excluded=excluded, read=10 * len(pairs), written=len(pairs))
        return Comparisons(orders, [{"p": None if np.isnan(p) else p} for p in self.preferences], work)


def answers(n: int) -> list[Answer]:
    return [Answer("", f"{word} {i}") for i in range(n) for word in ("good", "bad")]


def pairs(n: int) -> Any:
    return np.array([[2 * i, 2 * i + 1] for i in range(n)]).reshape(-1, 2)


def mixed(judge: Judge, **settings: Any) -> Mixed:
    return Mixed(Config(**settings), judge, GOLD, PEOPLE)


def by_people(source: list[str] | None) -> list[int]:
    assert source is not None
    return [m for m, one in enumerate(source) if one == "people"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.0, []), (0.17, [3]), (0.34, [3, 4]), (0.5, [1, 3, 4]), (0.67, [1, 3, 4, 5]), (1.0, [0, 1, 2, 3, 4, 5])],
)
def test_people_get_what_the_judge_is_least_sure_of(share: float, wanted: list[int]) -> None:
    """Sureness 0.5, 0.1, 0.45, none, 0, 0.2: without a verdict first, then the closest to ½."""
    judge = Known(0.0, 0.6, 0.95, NAN, 0.5, 0.3)
    labels = mixed(judge, human_share=share).label(answers(6), pairs(6))
    assert by_people(labels.source) == wanted


def test_unread_verdicts_use_up_people_and_that_is_counted(tmp_path: Path) -> None:
    said, index = answers(8), pairs(8)
    judge = Known(NAN, 0.6, NAN, NAN, 0.9, 0.3, 0.2, 0.7)
    assert [mixed(judge, human_share=s).label(said, index).stood_in for s in (0, 0.25, 0.5, 1)] == [0, 2, 3, 3]
    rows = [{"prompt": one.prompt, "response": one.response} for one in said]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    write_pairs([Pair(m, "p", 2 * m, 2 * m + 1, heldout=False) for m in range(8)], tmp_path / "pairs.parquet")
    found = make_labels(mixed(judge, human_share=0.5), GOLD, tmp_path, tmp_path)
    assert (found["people_pairs"], found["people_unread"], found["excluded"]) == (4, 3, 0)
    read = make_labels(mixed(Known(*[0.6] * 8), human_share=0.5), GOLD, tmp_path, tmp_path)
    assert "people_unread" not in read
    of_all = {name: dict.fromkeys(("mean", "min", "max"), value) for name, value in found.items() if name != "usage"}
    group = {"arms": ["dpo"], "source": "mixed", "metrics": of_all}
    assert excluded({"preferences": [group]}) == [
        "Of mixed feedback (dpo) people labelled 4 of 8 pairs (50 %), 3 of them since the judge's verdict could "
        "not be read: 1 (12 %) were left for those of which it was least sure."
    ]


def test_labels_are_those_of_whoever_gave_them() -> None:
    judge, said = Known(0.0, 0.6, 0.95, NAN, 0.5, 0.3), answers(6)
    labels = mixed(judge, human_share=0.5).label(said, pairs(6))
    chosen = [1, 3, 4]
    people = Simulated(PeopleConfig(), GOLD, PEOPLE).label(said, pairs(6)[chosen])
    assert labels.preference[chosen].tolist() == people.preference.tolist()
    assert labels.preference[[0, 2, 5]] == pytest.approx([0.0, 0.95, 0.3])
    raw = [json.loads(one) for one in labels.raw]
    assert [one["labeller"] for one in raw] == labels.source == ["ai", "people", "ai", "people", "people", "ai"]
    assert [one["people"] for one in raw if one["labeller"] == "people"] == [json.loads(one) for one in people.raw]
    assert [one["ai"]["p"] for one in raw] == [0.0, 0.6, 0.95, None, 0.5, 0.3]
    assert "people" not in raw[0]


def test_work_adds_up() -> None:
    labels = mixed(Known(0.0, 0.6, NAN, 0.5), human_share=0.5, people=PeopleConfig(raters_per_pair=5)).label(
        answers(4), pairs(4)
    )
    assert labels.human_labels == 2 * 5
    assert labels.work == Work(8, retried=1, excluded=1, read=40, written=4)
    usage = labels.usage
    assert (usage.labels, usage.human_labels, usage.judge_tokens) == (4, 10, 44)
    assert not np.isnan(labels.preference).any()
    assert labels.orders is not None
    assert labels.orders[:, 0].tolist() == pytest.approx([0.0, 0.6, NAN, 0.5], nan_ok=True)


def test_without_people_it_is_the_judge_and_with_them_alone_it_is_people() -> None:
    said, index = answers(6), pairs(6)
    judge = SimulatedJudge(JudgeConfig(form=FormEnum.pointwise, accuracy=1, noise=1.0), GOLD, PEOPLE)
    alone, none = AiFeedback(AiConfig(0.5), judge).label(said, index), mixed(judge, human_share=0, ai=AiConfig(0.5))
    assert none.label(said, index).preference.tolist() == alone.preference.tolist()
    assert none.label(said, index).human_labels == 0
    everybody = Simulated(PeopleConfig(seed=3), GOLD, PEOPLE).label(said, index)
    whole = mixed(judge, human_share=1, people=PeopleConfig(seed=2), seed=1).label(said, index)
    assert whole.preference.tolist() == everybody.preference.tolist()
    assert whole.human_labels == everybody.human_labels


def test_equally_unsure_pairs_are_drawn_by_their_texts() -> None:
    """Neither the place in the list nor the order of presentation decides, but the seed does."""
    n = 40
    said, index, judge = answers(n), pairs(n), Known(*[0.5] * n)
    chosen = by_people(mixed(judge).label(said, index).source)
    assert len(chosen) == 10
    assert chosen != list(range(10))
    assert by_people(mixed(judge).label(said, index[:, ::-1]).source) == chosen
    backwards = by_people(mixed(judge).label(said, index[::-1]).source)
    assert sorted(n - 1 - m for m in backwards) == chosen
    assert by_people(mixed(judge, seed=1).label(said, index).source) != chosen


def test_it_keeps_to_the_contract() -> None:
    judge = SimulatedJudge(JudgeConfig(accuracy=0.8, position_bias=0.3), GOLD, PEOPLE)
    rows = feedback_rows(lambda: mixed(judge, human_share=0.5))
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("feedback.human_share=1.2", "feedback.human_share=1.2: must be at least 0 and at most 1"),
        ("feedback.ai.temperature=0", "feedback.ai.temperature=0.0: must be above 0"),
        ("feedback.people.raters_per_pair=0", "feedback.people.raters_per_pair=0: must be at least 1"),
        ("feedback.people.raters_per_pair=21", "feedback.people.raters_per_pair=21: must be at most feedback.people"),
        ("feedback.people.rater=3", "feedback.people.rater: no such key"),
    ],
)
def test_what_cannot_be_is_refused_when_composing(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(["feedback=mixed", override])
    assert message in str(caught.value)


def test_it_composes_with_its_parts_settings() -> None:
    cfg = compose(["feedback=mixed", "feedback.people.raters_per_pair=1", "feedback.ai.temperature=2"])
    wanted = Config(people=replace(PeopleConfig(), raters_per_pair=1), ai=AiConfig(2.0))
    assert to_config(cfg.feedback) == wanted
