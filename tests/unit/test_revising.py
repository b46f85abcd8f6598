"""The start that a constitution has revised: what is asked, retried, excluded, learned from and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft.budget import USAGE
from rft.config import build, compose
from rft.data.offline import read_table
from rft.errors import UserError
from rft.feedback.base import Work
from rft.feedback.judges.asking import AskedJudge, AskingConfig
from rft.feedback.judges.base import Comparisons, Judge
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Reply, Request
from rft.feedback.revision import critique_request
from rft.models.pretrained import LoraConfig
from rft.store import Store
from rft.study.parts import settings_of
from rft.study.pipeline import Pipeline
from rft.study.replicate import with_own_draws
from rft.study.revising import Config, RevisedStart, Reviser, drawn
from rft.study.start import Common, refuse_start

pytestmark = pytest.mark.assets

PRINCIPLES = ["Be kind.", "Be brief.", "Be glad."]
SETTINGS = {"principles": PRINCIPLES}


class Writer(Judge):
    """Writes what a function makes of a request; keeps all that it was asked."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply, self.asked = reply, list[str]()
        self.limits: list[int] = []

    def compare(self, answers: Any, pairs: Any) -> Comparisons:
        raise NotImplementedError

    def write(self, requests: Sequence[str], max_tokens: int) -> tuple[list[str], Work]:
        self.asked += requests
        self.limits.append(max_tokens)
        replies = [self.reply(request) for request in requests]
        return replies, Work(len(requests), read=10 * len(requests), written=len(requests))


def good(request: str) -> str:
    if request.endswith("<critique>\n"):
        return "It is harsh.</critique>"
    return " was a joy.</revision>"


def candidates(questions: int = 6, samples: int = 3) -> list[dict[str, Any]]:
    """Answers of two tokens, the tokenizer's own, with texts to tell them apart."""
    return [
        {
            "row": q * samples + s,
            "prompt_id": f"train-{q}",
            "sample": s,
            "prompt": f"Film {q}",
            "response": f" was dull {s}.",
            "prompt_ids": [40 + q, 50],
            "response_ids": [60 + s, 2],
            "truncated": False,
        }
        for q in range(questions)
        for s in range(samples)
    ]


def reviser(tiny: Any, judge: Judge, config: Config | None = None, settings: Any = SETTINGS) -> Reviser:
    return Reviser(judge, settings, tiny[1], config or Config(), response_tokens=16)


def test_each_question_has_one_of_its_candidates_drawn_by_the_seed() -> None:
    rows = candidates(30, 4)
    first = drawn(rows, Config())
    assert [c["prompt_id"] for c in first] == [f"train-{q}" for q in range(30)]
    assert {c["sample"] for c in first} == {0, 1, 2, 3}
    assert drawn(rows, Config()) == first
    assert drawn(rows, Config(seed=1)) != first
    some = drawn(rows, Config(questions=7))
    assert len(some) == 7
    assert [c for c in first if c in some] == some  # the same answers, in the order of the questions
    assert some != first[:7]
    with pytest.raises(UserError, match=r"start.questions=31: there are 30 training questions"):
        drawn(rows, Config(questions=31))


def test_a_round_is_a_critique_and_a_revision_under_one_principle(tiny: Any) -> None:
    judge = Writer(good)
    first = drawn(candidates(20), Config())
    (rows,), work = reviser(tiny, judge, settings=SETTINGS | {"setting": "These are reviews."}).revise(first)
    assert judge.limits == [96, 96]
    assert judge.asked[:20] == [
        critique_request(r.prompt, r.response, r.principle, setting="These are reviews.") for r in rows
    ]
    assert all(
        "<critique>\nIt is harsh.\n</critique>" in asked and r.principle in asked
        for r, asked in zip(rows, judge.asked[20:], strict=True)
    )
    assert {r.principle for r in rows} == set(PRINCIPLES)
    assert [r.response for r in rows] == [c["response"] for c in first]
    assert {r.revision for r in rows} == {" was a joy."}
    assert all(r.response_ids == [*tiny[1].encode(" was a joy.", add_special_tokens=False), 2] for r in rows)
    assert work == Work(40, read=400, written=40)


def test_a_second_round_revises_what_the_first_made_under_a_principle_of_its_own(tiny: Any) -> None:
    def grows(request: str) -> str:
        if request.endswith("<critique>\n"):
            return "Harsh."
        return request.partition("<response>\n")[2].partition("\n</response>")[0] + " again</revision>"

    config = Config(rounds=2)
    one, two = reviser(tiny, Writer(grows), config).revise(drawn(candidates(20), config))[0]
    assert [r.response for r in two] == [r.revision for r in one]
    assert all(r.revision == f" was dull {r.row % 3}. again again" for r in two)
    assert [r.principle for r in one] != [r.principle for r in two]
    assert {r.round for r in one} == {0}
    assert {r.round for r in two} == {1}


def test_what_cannot_be_read_is_asked_once_more_and_then_excluded(tiny: Any) -> None:
    def faulty(request: str) -> str:
        again = "before this one" in request
        if "Film 0\n" in request:
            return ""  # no critique, twice
        if "Film 1\n" in request and request.endswith("<revision>\n"):
            return "<response>was a joy.</response>"  # no revision, twice
        if "Film 2\n" in request and not again:
            return " "  # readable when asked again, both times
        return good(request)

    judge = Writer(faulty)
    config = Config(rounds=2)
    (one, two), work = reviser(tiny, judge, config).revise(drawn(candidates(4), config))
    assert [r.usable for r in one] == [False, False, True, True]
    assert (one[0].critique, one[0].reply, one[0].revision) == (None, "", None)
    assert (one[1].critique, one[1].reply) == ("It is harsh.", "<response>was a joy.</response>")
    assert [r.prompt_id for r in two] == ["train-2", "train-3"]
    # Round 1: critiques 4, again 2 (0, 2); revisions 3, again 2 (1, 2). Round 2: 2, again 1; 2, again 1.
    assert (work.questions, work.retried, work.excluded) == (17, 6, 2)
    assert len(judge.asked) == 17
    assert sum("before this one" in asked for asked in judge.asked) == 6


def common(folder: Path, tiny_entry: Any, judge: Judge, *, lora: bool = True) -> Common:
    """The tiny model as SFT policy, and candidates of its own tokens."""
    (folder / "candidates").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(candidates()), folder / "candidates" / "candidates.parquet")
    cfg = compose(["strategy=cpu", "strategy.precision=fp32", "strategy.threads=1"])
    settings = LoraConfig(enabled=lora, rank=4)
    return Common(
        tiny_entry.path, folder / "candidates", settings, build(cfg.strategy), 16, lambda: judge, dict(SETTINGS)
    )


def make(config: Config, shared: Common, out: Path) -> dict[str, Any]:
    out.mkdir()
    return dict(RevisedStart(config).make(shared, out))


@pytest.mark.parametrize("lora", [True, False])
def test_the_policy_learns_its_revisions_and_comes_out_the_same_each_time(
    tiny_entry: Any, tmp_path: Path, lora: bool
) -> None:
    config = Config(epochs=20, batch_size=4, lr=3e-3)
    shared = common(tmp_path / "shared", tiny_entry, Writer(good), lora=lora)
    metrics = make(config, shared, tmp_path / "one")
    assert metrics["nll"] < metrics["nll_before"] - 1
    assert (metrics["questions"], metrics["revisions"], metrics["excluded"], metrics["retried"]) == (6, 6, 0, 0)
    assert metrics["steps"] == 20 * 2
    assert metrics["truncated"] == 0
    used = metrics[USAGE]
    assert used["judge_tokens"] == 12 * 11
    assert (used["labels"], used["human_labels"]) == (0, 0)
    rows = read_table(tmp_path / "one" / "revisions.parquet")
    tokens = sum(len(r["prompt_ids"]) + len(r["response_ids"]) for r in rows)
    assert used["trained_tokens"] == 20 * tokens
    assert used["flops"] > 0
    assert [r["revision"] for r in rows] == [" was a joy."] * 6
    assert {r["critique"] for r in rows} == {"It is harsh."}

    assert make(config, shared, tmp_path / "two") == metrics
    for name in ("policy.safetensors", "revisions.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    make(dataclasses.replace(config, seed=1), shared, tmp_path / "other")
    assert (tmp_path / "one" / "policy.safetensors").read_bytes() != (
        tmp_path / "other" / "policy.safetensors"
    ).read_bytes()


def test_the_revisions_of_every_round_are_learned_from_if_wanted(tiny_entry: Any, tmp_path: Path) -> None:
    shared = common(tmp_path / "shared", tiny_entry, Writer(good))
    last = make(Config(rounds=2), shared, tmp_path / "last")
    every = make(Config(rounds=2, all_rounds=True), shared, tmp_path / "every")
    assert (last["revisions"], every["revisions"]) == (6, 12)
    assert last["unchanged"] == 6  # the second round's are as the first's
    assert len(read_table(tmp_path / "last" / "revisions.parquet")) == 12


def test_money_that_an_endpoint_asked_for_counts_instead_of_its_tokens(tiny_entry: Any, tmp_path: Path) -> None:
    class Paid(Writer):
        def write(self, requests: Sequence[str], max_tokens: int) -> tuple[list[str], Work]:
            replies, work = super().write(requests, max_tokens)
            return replies, dataclasses.replace(work, money=0.5)

    used = make(Config(), common(tmp_path / "shared", tiny_entry, Paid(good)), tmp_path / "out")[USAGE]
    assert (used["judge_tokens"], used["judge_money"]) == (0, 1.0)


@pytest.mark.parametrize(("readable", "words"), [(0, "none of 6 answers has"), (2, "2 of 6 answers have")])
def test_too_little_to_learn_from_is_one_line(readable: int, words: str, tiny_entry: Any, tmp_path: Path) -> None:
    read = tuple(f"Film {n}\n" for n in range(readable))
    judge = Writer(lambda request: good(request) if any(one in request for one in read) else "")
    shared = common(tmp_path / "shared", tiny_entry, judge)
    with pytest.raises(UserError, match=f"{words} a revision that can be read: too few are left; raise") as caught:
        make(Config(), shared, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "policy.safetensors").exists()


def test_half_is_enough_to_learn_from(tiny_entry: Any, tmp_path: Path) -> None:
    judge = Writer(lambda request: good(request) if any(f"Film {n}\n" in request for n in range(3)) else "")
    assert make(Config(), common(tmp_path / "shared", tiny_entry, judge), tmp_path / "out")["excluded"] == 3


def test_what_an_earlier_stage_could_not_read_is_asked_for_anew(tiny: Any, tmp_path: Path) -> None:
    """A server that says nothing of use, and is mended; what it said well before is not asked for again."""

    class Server:
        def __init__(self, says: Callable[[str], str]) -> None:
            self.says, self.asked = says, list[str]()

        def identity(self, request: Request) -> dict[str, Any]:
            return {"backend": "server"}

        def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
            for place, request in enumerate(requests):
                self.asked.append(request.messages[0]["content"])
                yield place, Reply(self.says(self.asked[-1]), None, 1, 1, 0.1)

    def revised(server: Server) -> tuple[list[bool], Work]:
        kept = KeptVerdicts(tmp_path / "v.sqlite", {})
        judge = AskedJudge(AskingConfig(principles=["Be kind."]), server, kept)  # type: ignore[arg-type]
        (rows,), work = reviser(tiny, judge).revise(drawn(candidates(4), Config()))
        return [row.usable for row in rows], work

    broken = Server(lambda request: good(request) if "Film 3\n" in request else "")
    assert revised(broken)[0] == [False, False, False, True]
    assert len(broken.asked) == 4 + 3 + 1  # critiques, three of them twice, and a revision
    still = Server(broken.says)
    found, work = revised(still)
    assert (found, len(still.asked)) == ([False, False, False, True], 6)
    assert work.retried == 3
    mended = Server(good)
    found, work = revised(mended)
    assert found == [True] * 4
    assert len(mended.asked) == 3 + 3  # the critiques that were unread, and their revisions
    assert not any("Film 3\n" in asked for asked in mended.asked)
    assert revised(Server(good))[0] == [True] * 4


def test_a_judge_that_writes_no_text_or_has_no_principles_is_refused_before_anything() -> None:
    with pytest.raises(UserError, match="the judge FewShotJudge writes no text; choose one that does"):
        refuse_start(compose(["start=revised"]), "evaluation")
    with pytest.raises(UserError, match=r"judge\.principles is empty, and critiques take a constitution; choose"):
        refuse_start(compose(["start=revised", "judge=hf"]), "evaluation")
    with pytest.raises(UserError, match=r"judge\.principles=\[\]: without any judge=constitution is judge=pairwise"):
        compose(["start=revised", "judge=constitution", "judge.principles=[]"])
    refuse_start(compose(["algorithm=constitutional"]), "evaluation")
    refuse_start(compose([]), "evaluation")
    with pytest.raises(UserError, match="until=revisions: this start makes none"):
        refuse_start(compose([]), "revisions")


def test_the_default_start_changes_no_address(tmp_path: Path) -> None:
    cfg = compose(["algorithm=ppo"])
    assert cfg.start._target_ == "rft.study.start.SFTStart"
    assert not [key for key in settings_of(cfg.algorithm) if key.startswith("requires")]
    assert Pipeline(cfg, Store(tmp_path), tmp_path).revisions is None


def test_a_name_stands_for_its_start_and_its_feedback() -> None:
    cfg = compose(["algorithm=constitutional"])
    assert (cfg.start._target_, cfg.feedback._target_) == (
        "rft.study.revising.RevisedStart",
        "rft.feedback.ai.AiFeedback",
    )
    assert cfg.judge.principles
    for other, meant in (("start=sft", "start=revised"), ("feedback=simulated", "feedback=ai")):
        with pytest.raises(UserError, match=f"{other}: algorithm=constitutional means {meant}; leave it out"):
            compose(["algorithm=constitutional", other])
    with pytest.raises(UserError, match="start=sft: algorithm=ppo means start=revised; leave it out"):
        compose(["algorithm.requires_start=revised"])
    assert compose(["algorithm.requires_start=revised", "start=revised"]).algorithm.name == "ppo"


def test_a_seed_draws_its_own_revisions_with_the_pipeline() -> None:
    assert with_own_draws(compose(["start=revised", "seed=3"])).start.seed == 0
    assert with_own_draws(compose(["start=revised", "seed=3", "replicate=pipeline"])).start.seed == 3


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("rounds=0", "must be at least 1"),
        ("questions=0", "must be at least 1"),
        ("lr=0", "must be above 0"),
        ("epochs=0", "must be at least 1"),
        ("critique_tokens=0", "must be at least 1"),
        ("revision_tokens=0", "must be at least 1"),
        ("batch_size=0", "must be at least 1"),
        ("seed=-1", "must be at least 0"),
        ("round=2", "did you mean 'rounds'"),
    ],
)
def test_settings_have_ranges(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        compose(["start=revised", f"start.{setting}"])
