"""Chat completions of every form, and money that several spenders share."""

from __future__ import annotations

import copy
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rft.errors import UserError
from rft.feedback.judges.completion import (
    BELOW,
    UNLISTED,
    NoCompletion,
    NoLogprobs,
    option_logprobs,
    read_completion,
)
from rft.feedback.judges.cost_cap import CostCap
from rft.feedback.judges.endpoint import Unfit
from rft.feedback.judges.in_flight import Asking
from rft.feedback.judges.openai import Config, OpenAIBackend, key_of
from rft.feedback.judges.rate_limiter import RateLimiter
from rft.feedback.judges.request import Reply, Request


def test_an_option_counts_with_blanks_around_it_and_one_that_is_not_listed_is_below_the_least() -> None:
    listed = {"A": math.log(0.5), " A": math.log(0.2), "The": math.log(0.1)}
    a, b = option_logprobs(listed, ("A", "B")) or (0.0, 0.0)
    assert a == pytest.approx(math.log(0.7))
    assert b == pytest.approx(math.log(0.1) - BELOW) == pytest.approx(math.log(0.05))


@pytest.mark.parametrize(
    ("listed", "least"),
    [({"A": 0.99}, 0.01), ({"A": 0.55, " A": 0.44}, 0.01), ({"A": 0.6, "The": 0.1}, 0.1), ({"A": 1.0}, UNLISTED)],
)
def test_an_option_that_is_not_listed_has_at_most_what_the_listed_ones_leave(
    listed: dict[str, float], least: float
) -> None:
    a, b = option_logprobs({token: math.log(p) for token, p in listed.items()}, ("A", "B")) or (0.0, 0.0)
    assert math.exp(a) == pytest.approx(sum(p for token, p in listed.items() if "A" in token))
    assert math.exp(b) == pytest.approx(least / 2)


def test_none_of_the_options_listed_is_none() -> None:
    assert option_logprobs({"The": -0.1, "": -3.0, " ": -4.0}, ("A", "B")) is None
    assert option_logprobs({}, ("A", "B")) is None


def test_a_token_that_begins_one_option_counts_for_it_and_one_that_begins_two_for_none() -> None:
    listed = {" pos": -0.5, "ne": -1.5, "n": -3.0}
    assert option_logprobs(listed, (" positive", " negative", " neutral")) == (-0.5, -3.0 - BELOW, -3.0 - BELOW)


@pytest.mark.parametrize("options", [("1", "10"), ("A", " A"), ("very good", "good", "very")])
def test_options_of_which_one_begins_another_are_not_told_apart_by_one_token(options: tuple[str, ...]) -> None:
    """A tokeniser of digits begins 10 with the token 1."""
    with pytest.raises(ValueError, match="one begins another"):
        option_logprobs({"1": -0.5, "10": -1.0}, options)


def grades(to: int) -> str:
    return "judge.options=[" + ",".join(f"'{grade}'" for grade in range(1, to + 1)) + "]"


OPENAI = ("judge=openai", "judge.model=m", "model=tiny")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((*OPENAI, "judge.form=pointwise", grades(10)), "'1' is the beginning of '10'.*a scale to 9"),
        ((*OPENAI, "judge.form=listwise"), "judge.form=listwise is read from text: set judge.answers=generated"),
        (("judge=pairwise", "judge.form=listwise"), "judge.form=listwise is read from text"),
        (("judge=hf", "judge.shots=[{response: a}]"), r"judge.shots\[0\] has no verdict"),
        (("judge=hf", "judge.shots=[{response: a, verdict: '7'}]"), r"judge.shots\[0\].verdict is '7', which is none"),
        (("judge=hf", "judge.criterion=' '"), "judge.criterion is empty"),
        (("eval_judge=hf", "eval_judge.options=['1']"), r"eval_judge.options is \['1'\]"),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_composing(overrides: tuple[str, ...], words: str) -> None:
    from rft.config import compose

    with pytest.raises(UserError, match=words):
        compose(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge.form=pointwise", grades(9)),
        ("judge.form=pointwise", grades(10), "judge.answers=generated"),
        ("judge.form=pairwise", grades(10)),
    ],
)
def test_a_scale_that_can_be_read_is_taken(overrides: tuple[str, ...]) -> None:
    from rft.config import compose

    assert compose([*OPENAI, *overrides]).judge.model == "m"


def completion(**choice: Any) -> str:
    whole = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}, **choice}
    return json.dumps({"choices": [whole], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})


@pytest.mark.parametrize(
    "message",
    [
        {"content": None},
        {"content": ""},
        {"content": "A", "refusal": "I will not choose A."},
        {"content": [{"type": "text", "text": "A"}]},
        {},
    ],
)
def test_nothing_and_a_refusal_are_no_text(message: dict[str, Any]) -> None:
    found = read_completion(completion(message=message), ())
    assert (found.text, found.read, found.written, found.cut) == ("", 7, 1, False)


def test_what_was_cut_is_marked_and_what_was_filtered_is_no_text() -> None:
    assert read_completion(completion(finish_reason="length"), ()).cut
    assert read_completion(completion(finish_reason="content_filter"), ()).text == ""


@pytest.mark.parametrize(
    "body", ["", "<html>", "[]", "{}", '{"choices": []}', '{"choices": [1]}', '{"choices": [{}]}', '{"error": {}}']
)
def test_what_is_no_completion_is_malformed(body: str) -> None:
    with pytest.raises(NoCompletion):
        read_completion(body, ())


def test_log_probabilities_are_read_from_the_first_place_and_odd_entries_are_passed_over() -> None:
    top = [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": float("-inf")}, {"token": 3}, None]
    logprobs = {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": top}]}
    assert read_completion(completion(logprobs=logprobs), ("A", "B")).logprobs == (
        -0.5,
        pytest.approx(math.log(1 - math.exp(-0.5)) - BELOW),
    )
    assert read_completion(completion(logprobs={"content": []}), ("A", "B")).logprobs is None
    assert read_completion(completion(logprobs=logprobs, finish_reason="content_filter"), ("A", "B")).logprobs is None
    with pytest.raises(NoLogprobs):
        read_completion(completion(logprobs=None), ("A", "B"))


@pytest.mark.parametrize(
    ("token", "choice", "text"),
    [
        ("I", {"message": {"content": "I like both"}}, "I like both"),
        ("A", {"finish_reason": "content_filter"}, "A"),
        ("A", {"message": {"content": None, "refusal": "I will not choose."}}, "I will not choose."),
        ("I", {"message": {"content": None}}, ""),
        ("A", {}, ""),
    ],
)
def test_what_was_said_instead_of_an_option_is_kept(token: str, choice: dict[str, Any], text: str) -> None:
    """And nothing beside log-probabilities that can be read."""
    logprobs = {"content": [{"token": token, "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": -0.5}]}]}
    found = read_completion(completion(logprobs=logprobs, **choice), ("A", "B"))
    assert found.text == text
    assert (found.logprobs is None) is (choice != {})


def test_a_probability_above_one_is_none() -> None:
    top = [{"token": "A", "logprob": 1e6}, {"token": "B", "logprob": float("nan")}]
    logprobs = {"content": [{"token": "A", "logprob": 1e6, "top_logprobs": top}]}
    assert read_completion(completion(logprobs=logprobs), ("A", "B")).logprobs is None
    top[0]["logprob"] = 1e-6  # a server's rounding
    assert read_completion(completion(logprobs=logprobs), ("A", "B")).logprobs == (1e-6, math.log(UNLISTED) - BELOW)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1, "completion_tokens": True}])
def test_what_is_no_count_is_not_said(usage: Any) -> None:
    body = json.loads(completion()) | {"usage": usage}
    found = read_completion(json.dumps(body), ())
    assert (found.read, found.written) == (None, None)


def test_two_spenders_share_a_cap_and_what_was_set_aside_by_one_that_is_gone_stays(tmp_path: Path) -> None:
    gone, first, second = threading.Event(), *(CostCap(tmp_path / "s.sqlite", "m", 10.0) for _ in range(2))
    first.reserve(6.0, gone)
    with pytest.raises(UserError, match=r"judge.max_money=10: 6 have been spent on m .* may cost 5; raise it"):
        second.reserve(5.0, gone)
    first.settle(6.0, 2.0)
    second.reserve(5.0, gone)
    assert CostCap(tmp_path / "s.sqlite", "m", None).spent == 7.0
    CostCap(tmp_path / "s.sqlite", "another", 10.0).reserve(10.0, gone)


def test_a_cap_waits_for_what_is_in_flight_to_cost_less(tmp_path: Path) -> None:
    cap, gone = CostCap(tmp_path / "s.sqlite", "m", 10.0), threading.Event()
    cap.reserve(8.0, gone)
    threading.Timer(0.1, cap.settle, (8.0, 1.0)).start()
    cap.reserve(8.0, gone)
    assert cap.spent == 9.0


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"no database" * 99), "holds no spending that can be read .*; move it away"),
        (a_directory, "cannot be used .*; see that you may write there"),
    ],
)
def test_a_file_of_spending_that_is_none_is_told_in_one_line(spoil: Any, words: str, tmp_path: Path) -> None:
    spoil(tmp_path / "s.sqlite")
    with pytest.raises(UserError, match=words) as caught:
        CostCap(tmp_path / "s.sqlite", "m", 10.0).reserve(1.0, threading.Event())
    assert "\n" not in str(caught.value)


class Waiting:
    """Takes turns in a thread, and says when."""

    def __init__(self, limiter: RateLimiter, tokens: int = 0, times: int = 1) -> None:
        self.at: list[float] = []
        self.thread = threading.Thread(target=self._take, args=(limiter, tokens, times), daemon=True)
        self.thread.start()

    def _take(self, limiter: RateLimiter, tokens: int, times: int) -> None:
        for _ in range(times):
            limiter.take(tokens, threading.Event())
            self.at.append(time.monotonic())

    def join(self) -> float:
        self.thread.join(20)
        return self.at[-1]


def test_a_pause_is_kept_by_who_already_waits() -> None:
    limiter, started = RateLimiter(600.0, None), time.monotonic()
    limiter.take(0, threading.Event())
    waiting = Waiting(limiter)
    limiter.hold(0.3)
    assert waiting.join() - started > 0.3
    limiter.hold(0.1)
    limiter.pause(threading.Event())
    assert time.monotonic() - started > 0.4


def test_a_question_takes_one_turn_and_waits_for_no_tokens_of_its_own() -> None:
    """The limits, that is 0.01 s a question and 1 s a thousand tokens; a second one waits until tokens come back."""
    limiter, gone, started = RateLimiter(6000.0, 60_000.0), threading.Event(), time.monotonic()
    limiter.take(100_000, gone)
    limiter.pause(gone)
    assert time.monotonic() - started < 5, "its own 100 s are not waited out"
    waiting = Waiting(limiter, 10)
    limiter.give_back(100_000)
    assert waiting.join() - started < 5


def test_turns_are_as_far_apart_as_the_limit_says_and_a_retry_is_one() -> None:
    limiter, started = RateLimiter(600.0, None), time.monotonic()
    limiter.take(0, threading.Event())
    limiter.again()
    assert Waiting(limiter).join() - started > 0.19
    limiter.take(0, threading.Event())
    assert time.monotonic() - started > 0.29


def test_nobody_waits_once_all_are_gone() -> None:
    limiter, gone, started = RateLimiter(0.1, None), threading.Event(), time.monotonic()
    limiter.take(0, gone)
    gone.set()
    limiter.take(0, gone)
    assert time.monotonic() - started < 60


def test_what_an_answer_does_not_depend_on_is_in_no_identity(tmp_path: Path) -> None:
    def identity(options: tuple[str, ...], **settings: Any) -> dict[str, Any]:
        one = OpenAIBackend(Config(model="m", key_env=None, **settings), tmp_path / "s.sqlite")
        return one.identity(Request(({"role": "user", "content": "?"},), options))

    assert identity(("A", "B")) == identity(("A", "B"), seed=1, temperature=0.5, patience=1.0)
    assert identity(("A", "B")) != identity(("A", "B"), top_logprobs=5)
    assert identity(()) == identity((), seed=1, top_logprobs=5)
    assert identity((), temperature=0.5) != identity((), temperature=0.5, seed=1)
    assert identity(()) != identity((), temperature=0.5) != identity((), temperature=0.6)


def test_settings_that_change_no_answer_change_no_address(tmp_path: Path) -> None:
    """Prices change the address of a policy whose training a limit on money may end, and no other."""
    from rft.config import compose
    from rft.store import Store
    from rft.study.pipeline import Pipeline

    priced = ("judge.price_read=1", "judge.price_written=1", "algorithm=rlaif_online")
    plain = compose([*OPENAI, *priced])

    def addresses(money: float | None = None, **changed: Any) -> tuple[Any, Any]:
        cfg = copy.deepcopy(plain)
        cfg.budget.money = money
        for name, value in changed.items():
            cfg.judge[name] = value
        found = Pipeline(cfg, Store(tmp_path), tmp_path)
        return found.judge.address(), found._policy_address()

    untouched = {"patience": 7.0, "timeout": 7.0, "concurrency": 2, "max_money": 5.0, "base_url": "http://localhost/v1"}
    assert addresses() == addresses(**untouched, price_read=2.0)
    assert addresses(3.0) == addresses(3.0, **untouched)
    assert addresses()[0] != addresses(criterion="kind")[0]
    assert addresses(3.0)[0] == addresses(3.0, price_read=2.0)[0]
    assert addresses(3.0)[1] != addresses(3.0, price_read=2.0)[1]


def test_a_key_that_is_missing_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rft.config import compose
    from rft.store import Store
    from rft.study.pipeline import Pipeline

    monkeypatch.delenv("JUDGE_KEY", raising=False)
    cfg = compose([*OPENAI, "judge.key_env=JUDGE_KEY", "feedback=ai"])
    with pytest.raises(UserError, match="JUDGE_KEY holds no key"):
        Pipeline(cfg, Store(tmp_path / "store"), tmp_path).run("preferences")
    assert not list(tmp_path.glob("store/*/*"))
    Pipeline(cfg, Store(tmp_path / "store"), tmp_path)._check_judges("candidates")


@pytest.mark.parametrize(
    ("wanted", "there", "near"),
    [
        ("OPENAI_KEY", {"OPENAI_API_KEY": 1, "WANDB_API_KEY": 1, "PATH_OF_OPENAI": 1}, "OPENAI_API_KEY"),
        ("OPEN_AI_API_KEY", {"WANDB_API_KEY": 1, "OPENAI_TOKEN": 1}, "OPENAI_TOKEN"),
        ("OPENAI_API_KEY", {"OPENROUTER_API_KEY": 1, "HF_TOKEN": 1, "MONKEY": 1}, "OPENROUTER_API_KEY"),
        ("OPENAI_API_KEY", {"OPENAI_API_KEY_FILE": 0, "OPENAI_KEY_PATH": 0, "MONKEYS": 1, "openai_key": 1}, None),
        ("OPENAI_API_KEY", {}, None),
    ],
)
def test_a_missing_key_names_the_nearest_that_is_set_and_no_value(
    wanted: str, there: dict[str, int], near: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, is_key in there.items():
        monkeypatch.setenv(name, "sk-1b9c03d5aa7e4f26" if is_key else "/run/secrets/sk-1b9c03d5aa7e4f26")
    with pytest.raises(UserError) as caught:
        key_of(Config(model="m", key_env=wanted, base_url="http://localhost:8000/v1"))
    said = str(caught.value)
    assert said.startswith(f"judge: the environment variable {wanted} holds no key; set it, as in `export {wanted}=…`")
    assert "1b9c" not in said
    instead = f", or judge.key_env={near}, which is set, if that is the key for http://localhost:8000/v1, or"
    assert (instead in said) == (near is not None)
    assert said.count("is set") == (near is not None)


class Refusing:
    """An endpoint that refuses long questions."""

    config = Config(model="m", key_env=None)

    def ask(self, request: Request, gone: threading.Event) -> Reply:
        if "long" in request.messages[0]["content"]:
            raise Unfit("judge: takes no such question (400): too long", "(400): too long")
        return Reply("", (-0.1, -2.0), 1, 1, 0.0)


def texts(*said: str) -> list[Request]:
    return [Request(({"role": "user", "content": text},), ("A", "B")) for text in said]


def test_a_refused_question_is_handed_on_once_one_is_taken_now_or_before() -> None:
    endpoint: Any = Refusing()
    came = list(Asking(endpoint, 1, lambda _: False).answers(texts("long", "short", "long", "short")))
    assert [(place, reply.refused) for place, reply in came] == [
        (1, ""),
        (0, "(400): too long"),
        (2, "(400): too long"),
        (3, ""),
    ]
    rest = list(Asking(endpoint, 1, lambda _: True).answers(texts("long")))
    assert [reply.refused for _, reply in rest] == ["(400): too long"]
    with pytest.raises(UserError, match="takes no such question"):
        list(Asking(endpoint, 1, lambda _: False).answers(texts("long")))
