"""Each check of a judge and of a feedback source passes what is right and catches what breaks it."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.base import Answer, Feedback, Labels, Work, check_pairs
from rft.feedback.judges.base import Judge, PointwiseJudge, Verdicts
from rft.feedback.judges.few_shot import Config as FewShotConfig
from rft.testing.parts_judge import feedback_rows, judge_rows
from rft.testing.result import CheckResult
from tests.tokenizers import bytewise
from tests.unit.test_judge import SHOTS, few_shot, random_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNSTEADY = count()


class Length(PointwiseJudge):
    """Longer is better: keeps to everything, without a model."""

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        texts = [answer.text for answer in answers]
        return Verdicts(self.scores(texts), [self.answer(text) for text in texts])

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([len(text) / 100 for text in texts], dtype=np.float64)

    def answer(self, text: str) -> Any:
        return {"characters": len(text)}


class Column(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return super().scores(texts)[:, None]


class Whole(Length):
    def scores(self, texts: Sequence[str]) -> Any:
        return super().scores(texts).astype(int)


class Logarithm(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            return np.log(super().scores(texts))


class Indifferent(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.zeros(len(texts))


class Relative(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        scores = super().scores(texts)
        return scores - scores.mean() + np.arange(len(texts)) if len(texts) else scores


class Unsteady(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return super().scores(texts) + 1e-9 * next(UNSTEADY)


class KeepsNothing(Length):
    def answer(self, text: str) -> Any:
        return {}


class KeepsObjects(Length):
    def answer(self, text: str) -> Any:
        return {"words": set(text.split())}


class KeepsOne(Length):
    def score(self, answers: Sequence[Answer]) -> Verdicts:
        texts = [answer.text for answer in answers]
        return Verdicts(self.scores(texts), [self.answer("")] if texts else [])


class Template(Length):
    def answer(self, text: str) -> Any:
        return {"prompt": f"Is this good? {text} {{n}}".format(n=1)}


class ReadsNoneAlone(Length):
    """A text by itself cannot be read, and is counted as excluded."""

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        found = super().score(answers)
        if len(answers) != 1:
            return found
        return Verdicts(np.full(1, np.nan), found.raw, Work(1, excluded=1))


class NeedsOne(Length):
    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.stack([super(NeedsOne, self).scores([text])[0] for text in texts])


def failed(rows: Sequence[CheckResult]) -> dict[str, CheckResult]:
    return {row.name: row for row in rows if not row.ok}


def test_judges_that_are_right_pass() -> None:
    tokenizer = bytewise()
    for judge in (Length(), few_shot(FewShotConfig(SHOTS), random_model(len(tokenizer)), tokenizer)):
        rows = judge_rows(judge)
        assert not failed(rows), failed(rows)
        assert len(rows) == 7


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (Logarithm, "braces, quotes, line ends, emoji, nothing", "for the text ''"),
        (Indifferent, "one finite score a text", "prefers nothing"),
        (Relative, "a text depends on no other text", "alone"),
        (ReadsNoneAlone, "a text depends on no other text", "alone"),
        (Unsteady, "the same bits a second time", "6 of 6 scores changed"),
        (KeepsNothing, "raw answers are kept", "is empty"),
        (KeepsObjects, "raw answers are kept", "no JSON"),
        (KeepsOne, "raw answers are kept", "1 raw answers for 6 texts"),
        (Template, "braces, quotes, line ends, emoji, nothing", "for the text '{text} {0}"),
        (NeedsOne, "no texts, no scores", "raised ValueError"),
    ],
)
def test_a_judges_fault_fails_its_own_check_alone(found: type[Judge], check: str, words: str) -> None:
    rows = failed(judge_rows(found()))
    assert set(rows) == {check}
    assert words in rows[check].detail
    assert "test_check_judge.py:" in rows[check].where


@pytest.mark.parametrize(("found", "words"), [(Column, "shape [6, 1]"), (Whole, "type int64")])
def test_scores_that_are_no_numbers_of_the_texts_are_caught(found: type[Judge], words: str) -> None:
    row = failed(judge_rows(found()))["one finite score a text"]
    assert words in row.detail
    assert row.where.endswith(f":{inspect.getsourcelines(Length.score)[1]}")


class Longer(Feedback):
    """The longer text is better, by its share of both: symmetric, and keeps to everything."""

    symmetric = True

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        self.check(answers, pairs)
        length = np.array([len(answer.text) + 1.0 for answer in answers])
        return Labels(length, self.prefer(length, pairs), [self.answer(pair) for pair in pairs.tolist()])

    def check(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> None:
        check_pairs(answers, pairs)

    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return length[pairs[:, 0]] / length[pairs].sum(1)

    def answer(self, pair: Sequence[int]) -> str:
        return json.dumps(list(pair))


class Difference(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return (length[pairs[:, 0]] - length[pairs[:, 1]]) / 100


class OneForAll(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([0.7])


class Ties(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(pairs), 0.5)


class PositionBias(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return 0.9 * super().prefer(length, pairs) + 0.1


class ReadsOneOrder(Longer):
    """A pair whose longer text comes first cannot be read, and is counted as excluded."""

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        found = super().label(answers, pairs)
        preference = np.where(found.preference > 0.5, np.nan, found.preference)
        return Labels(found.scores, preference, found.raw, work=Work(excluded=int(np.isnan(preference).sum())))


class HonestPositionBias(PositionBias):
    symmetric = False


class Moody(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.clip(super().prefer(length, pairs) + 1e-9 * next(UNSTEADY), 0, 1)


class MoodyFromBirth(Longer):
    def __init__(self) -> None:
        self.mood = 1e-9 * next(UNSTEADY)

    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.clip(super().prefer(length, pairs) + self.mood, 0, 1)


class TakesAnything(Longer):
    def check(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> None:
        pass


class Prose(Longer):
    def answer(self, pair: Sequence[int]) -> str:
        return "the first one"


class Template2(Longer):
    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        check_pairs(answers, pairs)
        _ = [answer.text.format() for answer in answers]
        return super().label(answers, pairs)


class NeedsAPair(Longer):
    def prefer(self, length: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.concatenate([super(NeedsAPair, self).prefer(length, pair[None]) for pair in pairs])


class ScoresOfPairs(Longer):
    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        labels = super().label(answers, pairs)
        return Labels(labels.preference, labels.preference, labels.raw)


@pytest.mark.parametrize("make", [Longer, HonestPositionBias, lambda: AiFeedback(AiConfig(), Length())])
def test_feedback_that_is_right_passes(make: Any) -> None:
    rows = feedback_rows(make)
    assert not failed(rows), failed(rows)
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (Ties, "a preference in [0, 1] for each pair", "all 7 pairs are ties"),
        (ReadsOneOrder, "a pair the other way round gives 1 − p", "is excluded in one order of its answers only"),
        (PositionBias, "a pair the other way round gives 1 − p", "or symmetric = False"),
        (Moody, "the same labels a second time", "preferences changed at a second call"),
        (MoodyFromBirth, "the same labels a second time", "changed from the source made anew"),
        (TakesAnything, "refuses pairs that are none", "check_pairs"),
        (Prose, "raw answers are JSON", "json.dumps"),
        (Template2, "braces, quotes, line ends, emoji, nothing", "raised"),
        (NeedsAPair, "no pairs, no labels", "raised ValueError"),
    ],
)
def test_a_feedbacks_fault_fails_its_own_check_alone(found: type[Feedback], check: str, words: str) -> None:
    rows = failed(feedback_rows(found))
    assert set(rows) == {check}
    assert words in rows[check].detail
    assert "test_check_judge.py:" in rows[check].where


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Difference, "P(first is better), in [0, 1], is wanted"),
        (OneForAll, "preferences have shape [1] for 7 pairs"),
        (ScoresOfPairs, "scores have shape [7] for 6 texts"),
    ],
)
def test_labels_of_another_form_are_caught(found: type[Feedback], words: str) -> None:
    assert words in failed(feedback_rows(found))["a preference in [0, 1] for each pair"].detail


PLANTED = """
from rft.feedback.base import Feedback
from rft.feedback.judges.base import PointwiseJudge
class Peeks(PointwiseJudge):
    def score(self, answers):
        return self.task.load_{0}(answers)
class Asks(Feedback):
    def label(self, texts, pairs):
        raise NotImplementedError
class Stands(Asks):
    needs = frozenset({{"annotators"}})
"""


def test_what_judges_may_not_know_the_hidden_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "go" + "ld"  # spelled out, this file would itself be a reader of it
    (tmp_path / "planted_judges.py").write_text(PLANTED.format(hidden), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("planted_judges")
    for rows in (judge_rows(module.Peeks()), feedback_rows(module.Asks)):
        row = failed(rows)[f"reads no {hidden}"]
        assert f"names 'load_{hidden}'" in row.detail
        assert row.where.endswith("planted_judges.py:6")
    # Who asks people gets it, and stands between it and what trains.
    assert f"reads no {hidden}" not in failed(feedback_rows(module.Stands))
