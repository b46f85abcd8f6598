"""The simulated judge against closed forms: shares of thousands of pairs within four standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rft.config import compose
from rft.errors import UserError
from rft.feedback.ai import AiFeedback
from rft.feedback.ai import Config as AiConfig
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.base import Answer
from rft.feedback.judges.simulated import Config, FormEnum, SimulatedJudge
from rft.tasks.tfidf import TfidfGold
from rft.testing.parts_judge import feedback_rows

# logit("good") = 2, logit("fair") = 1, logit of anything else 0.
GOLD = TfidfGold({"good": 0, "fair": 1}, np.ones(2), np.array([2.0, 1.0]), 0.0)
PEOPLE = AnnotatorModel(slope=1.0, intercept=0.0, bias_sd=0.0, noise_sd=0.0)
EXACT = {"accuracy": 1.0}
PAIRS = 4000


def judge(**settings: Any) -> SimulatedJudge:
    return SimulatedJudge(Config(**EXACT | settings), GOLD, PEOPLE)


def answers(better: str, worse: str, n: int = PAIRS) -> list[Answer]:
    """n pairs of a better and a worse text; no text is there twice, and all numbers have as many digits."""
    return [Answer(f"Question {i:05d}: ", f"{word} {i:05d}") for i in range(n) for word in (better, worse)]


def pairs(n: int = PAIRS) -> Any:
    """The better one first in every other pair."""
    return np.array([[2 * i + i % 2, 2 * i + 1 - i % 2] for i in range(n)])


BETTER_FIRST = np.arange(PAIRS) % 2 == 0


def near(share: float, wanted: float, n: int = PAIRS) -> bool:
    """Whether a share of n draws is within four standard errors of its probability."""
    return bool(abs(share - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / n) + 1e-12)


def agreeing(orders: Any) -> tuple[float, int]:
    """Of the pairs on which both orders agree: the share that is right, and their number."""
    same = orders[:, 0] == orders[:, 1]
    return float(np.mean((orders[same, 0] == 1) == BETTER_FIRST[same])), int(same.sum())


def test_without_faults_it_is_the_gold() -> None:
    orders = judge().compare(answers("good", "odd"), pairs()).orders
    assert (orders == BETTER_FIRST[:, None]).all()


def test_equal_gold_is_no_preference() -> None:
    found = judge(accuracy=0.7).compare(answers("odd", "old", 50), pairs(50))
    assert (found.preference == 0.5).all()
    assert found.raw[0] == {"picks": ["neither", "neither"]}


@pytest.mark.parametrize("accuracy", [0.5, 0.6, 0.8, 0.95])
def test_it_agrees_with_the_gold_as_often_as_it_is_told_to(accuracy: float) -> None:
    orders = judge(accuracy=accuracy).compare(answers("good", "odd"), pairs()).orders
    assert (orders[:, 0] == orders[:, 1]).all(), "the order of presentation turned a verdict"
    assert near(agreeing(orders)[0], accuracy)


def test_a_worse_judge_is_wrong_where_a_better_one_is() -> None:
    said = [judge(accuracy=a).compare(answers("good", "odd"), pairs()).orders[:, 0] for a in (0.9, 0.7)]
    wrong = [one != BETTER_FIRST for one in said]
    assert wrong[0].any()
    assert not (wrong[0] & ~wrong[1]).any()


@pytest.mark.parametrize("bias", [0.1, 0.5, 1.0])
def test_a_bias_of_position_flips_as_many_verdicts(bias: float) -> None:
    orders = judge(accuracy=0.8, position_bias=bias).compare(answers("good", "odd"), pairs()).orders
    flipped = orders[:, 0] != orders[:, 1]
    assert near(flipped.mean(), bias)
    # The same position in both orders, and always the first one.
    assert (orders[flipped] == [1.0, 0.0]).all()
    if bias < 1:
        right, n = agreeing(orders)
        assert near(right, 0.8, n)


def test_the_bias_of_position_is_drawn_for_each_order() -> None:
    """Given the verdict, the order in which bias cannot show says nothing: 4 cells with known shares."""
    orders = judge(position_bias=0.3).compare(answers("good", "odd"), pairs()).orders
    better = orders[BETTER_FIRST], orders[~BETTER_FIRST]
    assert (better[0][:, 0] == 1).all()
    assert near((better[0][:, 1] == 0).mean(), 0.3, len(better[0]))
    assert (better[1][:, 1] == 0).all()
    assert near((better[1][:, 0] == 1).mean(), 0.3, len(better[1]))


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_noise_turns_close_pairs(noise: float) -> None:
    for words, difference in ((("good", "fair"), 1.0), (("good", "odd"), 2.0)):
        orders = judge(noise=noise, accuracy=0.9).compare(answers(*words), pairs()).orders
        inner = stats.norm.cdf(difference / (np.sqrt(2) * noise))
        assert near(agreeing(orders)[0], 0.5 + (2 * 0.9 - 1) * (inner - 0.5))


def test_length_counts_by_its_logarithm() -> None:
    said = [Answer("A long question. ", "good"), Answer("", "x" * 4 * 16), Answer("", "")]
    scores = judge(form=FormEnum.pointwise, length_bias=0.5).score(said).scores
    assert scores == pytest.approx([2 + 0.5 * np.log(4), 0.5 * np.log(64), 0.0])
    index = np.array([[0, 1]])
    # 2 nats of gold against bias · ln 16 of length: they are equal at 2 / ln 16.
    even = 2 / np.log(16)
    for bias, wanted in ((0.0, 1.0), (0.99 * even, 1.0), (1.01 * even, 0.0), (-1.0, 1.0)):
        assert judge(length_bias=bias).compare(said, index).preference.tolist() == [wanted]


def test_pointwise_it_says_what_it_thinks() -> None:
    pointwise = judge(form=FormEnum.pointwise)
    assert pointwise.one_by_one
    texts = answers("good", "odd", 3)
    assert pointwise.score(texts).scores == pytest.approx([2, 0] * 3)
    assert pointwise.compare(texts, pairs(2)).preference == pytest.approx(stats.logistic.cdf([2, -2]))
    noisy = judge(form=FormEnum.pointwise, noise=1.5).score(answers("good", "odd")).scores
    noise = noisy - np.tile([2.0, 0.0], PAIRS)
    assert stats.kstest(noise / 1.5, "norm").pvalue > 0.001


def test_pairwise_it_scores_nothing() -> None:
    assert not judge().one_by_one
    with pytest.raises(UserError, match=r"judge\.form=pointwise"):
        judge().score(answers("good", "odd", 1))


FAULTY = {"accuracy": 0.7, "position_bias": 0.3, "noise": 1.0, "length_bias": 0.5}


def test_a_verdict_does_not_depend_on_what_else_is_asked() -> None:
    said, index = answers("good", "odd", 60), pairs(60)
    whole = judge(**FAULTY).compare(said, index)
    part = judge(**FAULTY).compare(said, index[[7, 2, 9]])
    np.testing.assert_array_equal(part.orders, whole.orders[[7, 2, 9]])
    alone = judge(**FAULTY).compare([said[index[5, 1]], said[index[5, 0]]], np.array([[1, 0]]))
    np.testing.assert_array_equal(alone.orders, whole.orders[[5]])


def test_a_pair_the_other_way_round_is_the_same_pair() -> None:
    said, index = answers("good", "odd", 200), pairs(200)
    forward = judge(**FAULTY).compare(said, index).orders
    backward = judge(**FAULTY).compare(said, index[:, ::-1]).orders
    np.testing.assert_array_equal(backward, 1 - forward[:, ::-1])


def test_the_seed_decides_all() -> None:
    said, index = answers("good", "odd", 200), pairs(200)

    def orders(seed: int) -> list[Any]:
        found: list[Any] = judge(**FAULTY, seed=seed).compare(said, index).orders.tolist()
        return found

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)


def test_raw_answers_and_work() -> None:
    found = judge(position_bias=1.0).compare(answers("good", "odd", 3), pairs(3))
    assert found.raw == [{"picks": ["first", "second"]}] * 3
    assert found.work.questions == 6
    assert judge(form=FormEnum.pointwise).score(answers("good", "odd", 3)).work.questions == 6
    assert judge().compare([], np.empty((0, 2), dtype=np.int64)).orders.shape == (0, 2)


@pytest.mark.parametrize("settings", [{}, FAULTY, {"form": FormEnum.pointwise, "noise": 1.0}])
def test_ai_feedback_on_it_keeps_to_the_contract(settings: dict[str, Any]) -> None:
    gold = TfidfGold({"warm": 0, "worst": 1, "not": 2}, np.ones(3), np.array([2.0, -3.0, -1.0]), 0.0)

    def make() -> AiFeedback:
        return AiFeedback(AiConfig(), SimulatedJudge(Config(**EXACT | settings), gold, PEOPLE))

    rows = feedback_rows(make)
    assert [row.name for row in rows if not row.ok] == []


REFUSED: Sequence[tuple[list[str], str]] = (
    (["judge.accuracy=0.4"], "judge.accuracy=0.4: must be at least 0.5 and at most 1"),
    (["judge.position_bias=1.5"], "judge.position_bias=1.5: must be at least 0 and at most 1"),
    (["judge.noise=-1"], "judge.noise=-1.0: must be at least 0"),
    (["judge.form=pointwise"], "judge.form=pointwise: accuracy=0.8 and position_bias=0.0 are of verdicts on pairs"),
    (["judge.form=pointwise", "judge.accuracy=1", "judge.position_bias=0.1"], "position_bias=0.1 are of verdicts"),
)


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_cannot_be_is_refused_when_composing(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(["judge=simulated", *overrides])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused_when_built() -> None:
    with pytest.raises(UserError, match=r"judge\.form=pointwise: accuracy=0\.8"):
        SimulatedJudge(Config(form=FormEnum.pointwise), GOLD, PEOPLE)
    compose(["judge=simulated", "judge.form=pointwise", "judge.accuracy=1", "judge.noise=1"])
