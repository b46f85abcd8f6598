"""Judges that ask, with a small backend whose answers are known: forms, orders, retries, what is kept and counted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft.errors import UserError
from rft.feedback.audit_cases import Case, ask
from rft.feedback.base import Answer
from rft.feedback.judges.asked import to_lists
from rft.feedback.judges.asking import AnswersEnum, AskedJudge, AskingConfig, FormEnum
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.reading import read_scale, stated_before_cut
from rft.feedback.judges.request import Reply, Request
from rft.testing.parts_judge import judge_rows

GENERATED = AnswersEnum.generated
ANSWERS = [Answer("p", text) for text in ("aaa", "a", "aaaaa", "aa")]
PAIRS = np.array([[0, 1], [1, 2], [3, 0]])


class Known:
    """Answers by a function of the shown responses, in the reverse of the order asked; written down in `asked`."""

    def __init__(self, said: Callable[[Request, list[str]], str | tuple[float, ...] | None]) -> None:
        self.said, self.asked = said, list[Request]()

    def identity(self, request: Request) -> dict[str, Any]:
        return {"backend": "known", "options": bool(request.options)}

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(requests))):
            request = requests[place]
            self.asked.append(request)
            said = self.said(request, shown(request))
            logprobs, text = (None, said) if isinstance(said, str) else (said, "")
            yield place, Reply(text, logprobs, read=10, written=2, seconds=0.5, money=0.25)


def shown(request: Request) -> list[str]:
    """The responses of the question that comes last."""
    users = [turn["content"] for turn in request.messages if "<response" in turn["content"]]
    return re.findall(r"<response(?:-[A-Z])? [0-9a-f]{8}>\n(.*?)\n</response", users[-1], re.DOTALL) if users else []


def judge(said: Any, tmp_path: Path, form: str = "pairwise", **settings: Any) -> tuple[AskedJudge, Known]:
    backend = Known(said)
    kept = KeptVerdicts(tmp_path / "verdicts.sqlite", {"model": "m"})
    return AskedJudge(AskingConfig(form=FormEnum(form), **settings), backend, kept), backend


def longer(request: Request, texts: list[str]) -> tuple[float, ...]:
    """Log-odds of ln 3 for the longer one and ln 2 for the first."""
    odds = math.log(3) * float(np.sign(len(texts[0]) - len(texts[1]))) + math.log(2)
    return (odds, 0.0)


def test_a_pair_is_asked_in_both_orders_and_the_mean_counts(tmp_path: Path) -> None:
    """The longer at odds 3, shown first at odds 2: 6 : 1 and 3 : 2, or 2 : 3 and 1 : 6."""
    one, backend = judge(longer, tmp_path)
    found = one.compare(ANSWERS, PAIRS)
    np.testing.assert_allclose(found.orders, [[6 / 7, 3 / 5], [2 / 5, 1 / 7], [2 / 5, 1 / 7]])
    np.testing.assert_allclose(found.preference, [51 / 70, 19 / 70, 19 / 70])
    assert [shown(request) for request in backend.asked[::-1]] == [
        ["aaa", "a"],
        ["a", "aaaaa"],
        ["aa", "aaa"],
        ["a", "aaa"],
        ["aaaaa", "a"],
        ["aaa", "aa"],
    ]
    assert found.raw[0]["shown_first"]["logprobs"] == {"A": pytest.approx(math.log(6)), "B": 0.0}
    work = found.work
    assert (work.questions, work.kept, work.retried, work.excluded) == (6, 0, 0, 0)
    assert (work.read, work.written, work.seconds, work.money) == (60, 12, 3.0, 1.5)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    one, backend = judge(longer, tmp_path)
    first = one.compare(ANSWERS, PAIRS[:2])
    backend.asked.clear()
    second = one.compare(ANSWERS, PAIRS)
    assert len(backend.asked) == 2
    np.testing.assert_array_equal(second.orders[:2], first.orders)
    assert (second.work.questions, second.work.kept) == (6, 4)
    assert second.work.read == 60  # kept ones count as when they were asked
    other, fresh = judge(longer, tmp_path)
    np.testing.assert_array_equal(other.compare(ANSWERS, PAIRS).orders, second.orders)
    assert not fresh.asked


def test_the_same_question_is_put_once(tmp_path: Path) -> None:
    one, backend = judge(longer, tmp_path)
    found = one.compare([*ANSWERS, ANSWERS[0]], np.array([[0, 1], [4, 1], [1, 0], [0, 0]]))
    assert len(backend.asked) == found.work.questions == 3  # both orders, and a text beside itself
    np.testing.assert_array_equal(found.orders[0], found.orders[1])
    np.testing.assert_allclose(found.orders[2], 1 - found.orders[0][::-1])
    np.testing.assert_allclose(found.orders[3], [2 / 3, 1 / 3])


def test_asked_again_it_answers_anew_and_keeps_that_too(tmp_path: Path) -> None:
    def fickle(request: Request, texts: list[str]) -> tuple[float, ...]:
        return (float(request.attempt), 0.0)

    one, backend = judge(fickle, tmp_path)
    again = one.asked_again(1)
    assert one.compare(ANSWERS, PAIRS[:1]).orders[0, 0] == 0.5
    assert again.compare(ANSWERS, PAIRS[:1]).orders[0, 0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert one.asked_again(2).compare(ANSWERS, PAIRS[:1]).orders[0, 0] == pytest.approx(1 / (1 + math.exp(-4)))
    asked = len(backend.asked)
    assert one.asked_again(1).compare(ANSWERS, PAIRS[:1]).work.kept == 2
    assert one.compare(ANSWERS, PAIRS[:1]).work.kept == 2
    assert len(backend.asked) == asked == 6


def test_what_cannot_be_read_is_asked_once_more_then_excluded(tmp_path: Path) -> None:
    """ "aaaaa" is never judged; about "a" it answers plainly at the second time."""

    def mumbles(request: Request, texts: list[str]) -> str:
        if "aaaaa" in texts:
            return "Both are fine."
        if "a" in texts and request.attempt == 0:
            return "Hm."
        return "A" if len(texts[0]) > len(texts[1]) else "Verdict: B"

    one, backend = judge(mumbles, tmp_path, answers=GENERATED)
    found = one.compare(ANSWERS, PAIRS)
    np.testing.assert_array_equal(found.orders, [[1, 1], [np.nan, np.nan], [0, 0]])
    work = found.work
    assert (work.questions, work.kept, work.retried, work.excluded) == (6, 0, 4, 2)
    assert (work.read, work.seconds) == (100, 5.0)
    assert sorted(request.attempt for request in backend.asked) == [0] * 6 + [1] * 4
    assert found.raw[1]["shown_first"] == {"text": "Both are fine.", "retried": True, "excluded": True}
    assert found.raw[0]["shown_second"] == {"text": "Verdict: B", "retried": True}
    assert "excluded" not in found.raw[2]["shown_first"]
    backend.asked.clear()
    assert one.compare(ANSWERS, PAIRS).work.kept == 6
    assert not backend.asked


def mumbling(request: Request, texts: list[str]) -> str:
    """It says nothing of "aaaaa", and of "a" something at the second time only."""
    if not texts:
        return "It rambles."
    return "Hm." if "aaaaa" in texts or ("a" in texts and request.attempt == 0) else "Verdict: A"


@pytest.mark.parametrize("thinks", [False, True])
def test_a_later_stage_asks_for_what_could_not_be_read_and_for_nothing_else(tmp_path: Path, *, thinks: bool) -> None:
    settings = {"answers": GENERATED, "chain_of_thought": thinks}
    first, _ = judge(mumbling, tmp_path, **settings)
    assert first.compare(ANSWERS, PAIRS).work.excluded == 2
    assert "Hm." in [row.reply.text for row in first.verdicts.rows()]
    mended, backend = judge(lambda request, texts: "Verdict: B", tmp_path, **settings)
    found = mended.compare(ANSWERS, PAIRS)
    assert [sorted(map(len, shown(request))) for request in backend.asked] == [[1, 5]] * 2
    np.testing.assert_array_equal(found.orders, [[1, 0], [0, 1], [1, 0]])
    assert (found.work.kept, found.work.retried, found.work.excluded) == (4, 2, 0)
    last, backend = judge(mumbling, tmp_path, **settings)
    np.testing.assert_array_equal(last.compare(ANSWERS, PAIRS).orders, found.orders)
    assert not backend.asked


def test_a_thought_that_led_to_nothing_is_asked_for_anew_too(tmp_path: Path) -> None:
    def dumb(request: Request, texts: list[str]) -> str | None:
        return None if request.options else "…"

    judge(dumb, tmp_path, chain_of_thought=True)[0].compare(ANSWERS, PAIRS[:1])
    mended, backend = judge(
        lambda request, texts: longer(request, texts) if request.options else "Plain.", tmp_path, chain_of_thought=True
    )
    found = mended.compare(ANSWERS, PAIRS[:1])
    assert sorted(bool(request.options) for request in backend.asked) == [False, False, True, True]
    assert found.raw[0]["shown_first"]["thought"] == "Plain."
    assert found.work.excluded == 0


def test_what_a_killed_stage_could_not_read_at_first_is_asked_once_more_only(tmp_path: Path) -> None:
    """As an undisturbed one would have gone on."""

    def ends(request: Request, texts: list[str]) -> str:
        if request.attempt:
            raise UserError("judge: nobody there")
        return "Hm."

    with pytest.raises(UserError, match="nobody"):
        judge(ends, tmp_path, answers=GENERATED)[0].compare(ANSWERS, PAIRS[:1])
    after, backend = judge(lambda request, texts: "A", tmp_path, answers=GENERATED)
    assert after.compare(ANSWERS, PAIRS[:1]).work.retried == 2
    assert [request.attempt for request in backend.asked] == [1, 1]


@pytest.mark.parametrize("logprobs", [None, (0.0,), (math.nan, 0.0), (-math.inf, -math.inf)])
def test_log_probabilities_that_are_none_exclude(logprobs: Any, tmp_path: Path) -> None:
    one, _ = judge(lambda request, texts: logprobs, tmp_path)
    found = one.compare(ANSWERS, PAIRS[:1])
    assert np.isnan(found.orders).all()
    assert (found.work.retried, found.work.excluded) == (2, 2)
    json.dumps(found.raw, allow_nan=False)


def test_an_impossible_option_is_no_missing_one(tmp_path: Path) -> None:
    one, _ = judge(lambda request, texts: (-1.0, -math.inf), tmp_path)
    found = one.compare(ANSWERS, PAIRS[:1])
    assert found.orders.tolist() == [[1.0, 0.0]]
    assert found.raw[0]["shown_first"]["logprobs"] == {"A": -1.0, "B": None}
    scoring, _ = judge(lambda request, texts: (-1.0, -math.inf), tmp_path, "pointwise", options=["no", "yes"])
    assert np.isnan(scoring.score(ANSWERS[:1]).scores).all()


def test_a_score_is_the_expected_grade(tmp_path: Path) -> None:
    """p = 1/8, 2/8, 5/8 of the grades 0, 2 and 10, whatever else the model might say."""
    weights = (0.05, 0.1, 0.25)
    one, _ = judge(lambda r, t: tuple(map(math.log, weights)), tmp_path, "pointwise", options=["0", "2", "10"])
    assert one.score(ANSWERS[:1]).scores.tolist() == pytest.approx([(2 * 2 + 10 * 5) / 8])
    words, _ = judge(lambda r, t: tuple(map(math.log, weights)), tmp_path, "pointwise", options=["bad", "fair", "good"])
    assert words.score(ANSWERS[:1]).scores.tolist() == pytest.approx([(1 + 2 * 2 + 3 * 5) / 8])


def test_two_options_give_log_odds(tmp_path: Path) -> None:
    one, _ = judge(lambda r, t: (-3.0, -1.0 * len(t[0])), tmp_path, "pointwise", options=["no", "yes"])
    found = one.score(ANSWERS)
    assert found.scores.tolist() == [0.0, 2.0, -2.0, 1.0]
    compared = one.compare(ANSWERS, PAIRS[:1])
    assert compared.orders[0] == pytest.approx([1 / (1 + math.exp(2))] * 2)
    assert found.raw[1] == {"logprobs": {"no": -3.0, "yes": -1.0}}


def test_a_written_grade(tmp_path: Path) -> None:
    one, _ = judge(lambda r, t: "2.5" if t[0] == "a" else "9", tmp_path, "pointwise", answers=GENERATED)
    found = one.score(ANSWERS[:2])
    np.testing.assert_array_equal(found.scores, [np.nan, 2.5])
    assert (found.work.questions, found.work.retried, found.work.excluded) == (2, 1, 1)


def test_a_thought_is_asked_for_first_and_shown_to_the_verdict(tmp_path: Path) -> None:
    def thinks(request: Request, texts: list[str]) -> Any:
        if not request.options:
            return f"The first is {'longer' if len(texts[0]) > len(texts[1]) else 'shorter'}."
        return (1.0, 0.0) if "longer" in request.messages[-2]["content"] else (0.0, 1.0)

    one, backend = judge(thinks, tmp_path, chain_of_thought=True)
    found = one.compare(ANSWERS, PAIRS[:1])
    assert found.orders[0] == pytest.approx([1 / (1 + math.exp(-1))] * 2)
    assert found.raw[0]["shown_second"]["thought"] == "The first is shorter."
    assert (found.work.questions, found.work.read, len(backend.asked)) == (2, 40, 4)
    assert one.compare(ANSWERS, PAIRS[:1]).work.kept == 2


def ranks(request: Request, texts: list[str]) -> str:
    """The longest is best; equally long ones are equal."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    said = "ABCDEFGH"[order[0]]
    for before, i in pairwise(order):
        said += (" = " if len(texts[i]) == len(texts[before]) else " > ") + "ABCDEFGH"[i]
    return said


def test_a_list_is_ranked_in_two_orders(tmp_path: Path) -> None:
    one, backend = judge(ranks, tmp_path, "listwise", answers=GENERATED)
    answers = [*ANSWERS, Answer("p", "bb"), Answer("q", "a"), Answer("q", "aa")]
    found = one.compare(answers, np.array([[0, 1], [2, 3], [3, 4], [6, 5], [1, 1], [0, 6]]))
    np.testing.assert_array_equal(found.orders, [[1, 1], [1, 1], [0.5, 0.5], [1, 1], [0.5, 0.5], [1, 1]])
    texts = [shown(request) for request in backend.asked]
    assert sorted(map(len, texts)) == [2, 2, 2, 2, 5, 5]
    five = [one for one in texts if len(one) == 5]
    assert five[0] == five[1][::-1]
    assert found.work.questions == 6


def test_a_list_judge_that_goes_by_place_contradicts_itself(tmp_path: Path) -> None:
    one, _ = judge(lambda r, t: " > ".join("ABCD"[: len(t)]), tmp_path, "listwise", answers=GENERATED)
    found = one.compare(ANSWERS, np.array([[0, 1], [1, 0], [2, 3]]))
    np.testing.assert_array_equal(found.orders, [[1, 0]] * 3)
    assert found.raw[1]["shown_first"] == {"text": "A > B > C > D", "first": "C", "second": "D"}
    assert found.raw[1]["shown_second"] == {"text": "A > B > C > D", "first": "B", "second": "A"}


def test_an_audit_asks_about_each_pair_in_a_list_of_its_own(tmp_path: Path) -> None:
    """One that is swayed by whatever else is in the list is swayed by nothing then."""

    def swayed(request: Request, texts: list[str]) -> str:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse="obey" not in " ".join(texts))
        return " > ".join("ABCDEFGH"[i] for i in order)

    one, backend = judge(swayed, tmp_path, "listwise", answers=GENERATED)
    texts = ("aaa", "a", "aaaaa obey", "aa", "aaaa")
    pairs = [(0, 1), (0, 2), (3, 1), (1, 0), (4, 1)]
    cases = [Case("rated", (str(a), str(b)), (Answer("", texts[a]), Answer("", texts[b]))) for a, b in pairs]
    found = ask(one, cases)
    assert found.orders.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0], [1, 1]]
    assert {len(shown(request)) for request in backend.asked} == {2}
    assert len(backend.asked) == 2 * 4  # the first and the fourth are the same
    # Beside the others the same judge is swayed.
    assert one.compare([Answer("", text) for text in texts], np.array(pairs)).orders[0].tolist() == [0, 0]


def test_many_answers_are_ranked_in_several_lists() -> None:
    answers = [Answer("p", str(i)) for i in range(20)]
    pairs = np.array(list(combinations(range(20), 2)))
    lists = to_lists(answers, pairs, 8)
    assert max(len(one.rows) for one in lists) <= 8
    decided = {m: (one.rows[a], one.rows[b]) for one in lists for m, (a, b) in one.places.items()}
    assert decided == {m: tuple(pair) for m, pair in enumerate(pairs.tolist())}


def test_text_is_written_in_order_and_kept(tmp_path: Path) -> None:
    one, backend = judge(lambda request, texts: request.messages[0]["content"].upper(), tmp_path)
    texts, work = one.write(["one", "two", "one", ""], 9)
    assert texts == ["ONE", "TWO", "ONE", ""]
    assert (work.questions, work.kept, work.written) == (3, 0, 6)
    assert {request.max_tokens for request in backend.asked} == {9}
    assert one.write(["two"], 9)[1].kept == 1
    assert one.write(["two"], 8)[1].kept == 0


def test_what_came_before_a_stop_is_kept(tmp_path: Path) -> None:
    stops_at = ["aaa"]

    def stops(request: Request, texts: list[str]) -> tuple[float, ...]:
        if texts == [*stops_at, "a"]:
            raise UserError("judge: the cost cap is reached")
        return longer(request, texts)

    one, backend = judge(stops, tmp_path)
    with pytest.raises(UserError, match="cost cap"):
        one.compare(ANSWERS, PAIRS)
    stops_at.clear()
    backend.asked.clear()
    found = one.compare(ANSWERS, PAIRS)
    assert [shown(request) for request in backend.asked] == [["aaa", "a"]]
    assert found.work.kept == 5


@pytest.mark.parametrize(
    ("form", "settings", "words"),
    [
        ("listwise", {}, "judge.answers=generated"),
        ("pointwise", {"options": ["1"]}, "at least 2"),
        ("pointwise", {"options": ["1", "1"]}, "at least 2 different"),
        ("pointwise", {"options": ["1", " "]}, "none of them blank"),
        ("pointwise", {"options": ["bad", "good"], "answers": GENERATED}, "numbers in rising order"),
        ("pointwise", {"options": ["5", "1"], "answers": GENERATED}, "numbers in rising order"),
        ("pairwise", {"criterion": " "}, "judge.criterion is empty"),
        ("pairwise", {"principles": ["Be kind.", ""]}, r"judge.principles\[1\]"),
        ("pairwise", {"principles": [{"Be kind": "no mockery"}]}, r"judge.principles\[0\] is no text: .* quotes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(form: str, settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        judge(longer, tmp_path, form, **settings)


def test_only_the_pointwise_form_scores(tmp_path: Path) -> None:
    one, _ = judge(longer, tmp_path)
    assert not one.one_by_one
    with pytest.raises(UserError, match="form=pointwise"):
        one.score(ANSWERS)


class Crowded(Known):
    """An endpoint whose answers depend on how many it is asked at once."""

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for place, reply in super().answer(requests):
            assert reply.logprobs is not None
            yield place, replace(reply, logprobs=(reply.logprobs[0] * len(requests), *reply.logprobs[1:]))


def test_what_was_kept_does_not_hide_from_the_checks_that_an_answer_depends_on_others(tmp_path: Path) -> None:
    backend = Crowded(lambda request, texts: (float(len(texts[0])), 0.0))
    kept = KeptVerdicts(tmp_path / "verdicts.sqlite", {})
    one = AskedJudge(AskingConfig(form=FormEnum.pointwise, options=["good", "bad"]), backend, kept)
    failed = {row.name for row in judge_rows(one, one.asked_again) if not row.ok}
    assert failed == {"a text depends on no other text"}


def test_an_endpoint_that_draws_its_answers_is_not_blamed_for_the_batch(tmp_path: Path) -> None:
    one, _ = judge(
        lambda request, texts: (len(texts[0]) + 0.1 * request.attempt, 0.0), tmp_path, "pointwise", options=["g", "b"]
    )
    rows = {row.name: row for row in judge_rows(one, one.asked_again)}
    assert all(row.ok for row in rows.values())
    assert "cannot be seen" in rows["a text depends on no other text"].detail


@pytest.mark.parametrize("form", ["pointwise", "pairwise", "listwise"])
def test_every_form_keeps_to_what_the_checks_ask(form: str, tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "pointwise": lambda r, t: (0.0, len(t[0]) / 100, 0.0, 0.0, 1.0),
        "pairwise": longer,
        "listwise": ranks,
    }
    settings = {"answers": GENERATED} if form == "listwise" else {}
    one, _ = judge(said[form], tmp_path, form, **settings)
    rows = judge_rows(one)
    assert not [row for row in rows if not row.ok]
    assert len(rows) == (7 if form == "pointwise" else 8)


@pytest.mark.parametrize(
    ("said", "settings", "score"),
    [
        ("1", {}, math.nan),  # it may be the 1 of 10
        ("4\nThe res", {}, 4.0),
        ("\n\n4", {}, math.nan),
        ("Good.\nVerdict: 3\nVerdict: 1", {"chain_of_thought": True}, 3.0),
        ("Good.\nVerdict: 1", {"chain_of_thought": True}, math.nan),
    ],
)
def test_of_cut_text_only_whole_lines_are_read(said: str, settings: Any, score: float) -> None:
    marked = bool(settings)
    read = read_scale(stated_before_cut(said, marked), [str(n) for n in range(1, 11)], marked)
    assert (read or (math.nan,))[0] == pytest.approx(score, nan_ok=True)


def test_a_refused_question_is_asked_once_says_why_and_is_asked_again_later(tmp_path: Path) -> None:
    class Refusing(Known):
        def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
            for place, _ in super().answer(requests):
                yield place, Reply("", None, 0, 0, 0.0, refused="(400): too long")

    kept = KeptVerdicts(tmp_path / "v.sqlite", {})
    backend = Refusing(longer)
    found = AskedJudge(AskingConfig(), backend, kept).compare(ANSWERS, PAIRS[:1])
    assert len(backend.asked) == 2
    assert np.isnan(found.orders).all()
    assert found.raw[0]["shown_first"] == {"text": "", "refused": "(400): too long", "excluded": True}
    assert [one.reply.refused for one in kept.rows()] == ["(400): too long"] * 2, "it can be read"
    assert not kept.holds(backend.identity(next(iter(backend.asked)))), "it is no answer"
    longer_context = Known(longer)
    again = AskedJudge(AskingConfig(), longer_context, KeptVerdicts(kept.path, {})).compare(ANSWERS, PAIRS[:1])
    assert len(longer_context.asked) == 2
    assert np.isfinite(again.orders).all()
    assert [one.reply.refused for one in kept.rows()] == ["", ""], "the answer takes its place"
    AskedJudge(AskingConfig(), backend, KeptVerdicts(kept.path, {})).compare(ANSWERS, PAIRS[:1])
    assert len(backend.asked) == 2, "and is found"
