"""What the report says of budgets and costs, on results whose policies lie in a store."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rft.budget.usage import USAGE
from rft.report import StudyResults, summarise, views
from rft.report.html import render
from rft.report.load import StageUse, Trial
from rft.report.markdown import escape, markdown
from rft.report.spending import ending
from rft.report.table import print_table
from rft.store import Store
from rft.store.cost import COST
from tests.unit.test_report_verdicts import QUICK, trial

PRICES = {"gpu_hour": 2.0, "core_hour": 0.0, "human_label": 0.5, "judge_mtoken": 0.0}
SHARED_LABELS = 512


class Bench:
    """Arms with what their policies used, what ended them, and their settings of the budget."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.trials: list[Trial] = []
        self.preferences = self._use(
            "preferences", metrics={USAGE: {"labels": SHARED_LABELS, "human_labels": SHARED_LABELS}}
        )
        self.reward_model = self._use("reward_model", inputs={"preferences": self.preferences.key}, metrics={USAGE: {}})

    def _use(self, name: str, seconds: float = 3.0, **made: Any) -> StageUse:
        history, inputs = made.pop("history", None), made.pop("inputs", {})
        metrics = made.pop("metrics")

        def build(folder: Path) -> Mapping[str, Any]:
            (folder / "history.json").write_text(history or "[]")
            return {**metrics, COST: {"seconds_training": seconds}} if name == "policy" else metrics

        entry = self.store.get_or_compute(name, version=1, config=made, inputs=inputs, build=build)
        return StageUse(entry.key, entry.digest, seconds, None, None, True, entry)

    def arm(
        self, name: str, *, used: Mapping[str, float] | None = None, stopped: Sequence[str | None] = (None, None),
        seconds: float = 10.0, offline: bool = False, kl: float = 0.0, **budget: Any,
    ) -> Bench:  # fmt: skip
        """An arm with a seed for each of `stopped`, not trained without `used`. `offline`: it learns from labels."""
        for seed, resource in enumerate(stopped):
            learned = {"labels": 100.0, "human_labels": 100.0} if offline else {}
            inputs = {"preferences": self.preferences.key} if offline else {"reward_model": self.reward_model.key}
            policy = self._use(
                "policy", seconds, arm=name, seed=seed, inputs=inputs if used else {},
                metrics={USAGE: {**(used or {}), **learned}, "stopped_by": resource},
                history='[{"step": 8.0, "train/loss": 0.1}]' if used else "[]",
            )  # fmt: skip
            stages = {"preferences": self.preferences, "reward_model": self.reward_model, "policy": policy}
            gold = np.linspace(0.3, 0.6, 20) + 0.01 * seed + 0.02 * len(self.trials)
            config = {"budget": {"prices": PRICES, **budget}}
            self.trials.append(trial(name, seed, gold, kl, stages=stages, config=config))
        return self

    def summary(self) -> dict[str, Any]:
        return summarise(StudyResults("s", tuple(self.trials), ()), settings=QUICK)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def notes(bench: Bench) -> list[str]:
    return list(bench.summary()["cost"]["budget"]["notes"])


def tokens(count: float) -> dict[str, float]:
    return {"generated_tokens": count, "trained_tokens": count, "prompts": 64}


STOPPED = ("generated_tokens", "generated_tokens")


def test_one_budget_is_said_in_full_and_an_untrained_arm_is_not_meant(bench: Bench) -> None:
    for arm in ("ppo", "grpo"):
        bench.arm(arm, used=tokens(48_000), stopped=STOPPED, generated_tokens=48_000, charge="full")
    bench.arm("sft")
    assert notes(bench) == ["All arms had the same limit: 48,000 generated tokens, shared stages included."]


def test_a_budget_of_training_alone_says_so(bench: Bench) -> None:
    for arm in ("ppo", "grpo"):
        bench.arm(arm, used=tokens(900), stopped=STOPPED, generated_tokens=1000, seconds=60)
    assert notes(bench) == ["All arms had the same limit: 1,000 generated tokens, shared stages not counted."]


def test_unequal_budgets_are_told_by_arm(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(1500), stopped=STOPPED, generated_tokens=1500)
    bench.arm("dpo", used=tokens(0) | {"trained_tokens": 9}, offline=True)
    assert notes(bench) == ["The arms did not have one budget: dpo none, ppo 1,500 generated tokens."]


def test_another_charge_is_another_budget(bench: Bench) -> None:
    for arm, charge in (("ppo", "full"), ("grpo", "training")):
        bench.arm(arm, used=tokens(1500), stopped=STOPPED, generated_tokens=1500, charge=charge)
    assert notes(bench) == [
        "The arms did not have one budget: grpo 1,500 generated tokens, ppo 1,500 generated tokens, shared stages "
        "included."
    ]


def test_answers_that_are_picked_from_are_said_to_be_in_no_cost(bench: Bench) -> None:
    bench.arm("sft").arm("best_of_n", kl=0.6).arm("ppo", used=tokens(1500), kl=4.0)
    assert notes(bench) == ["best_of_n pays n answers at each use, which these figures leave out."]


def test_no_budget_is_said(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(1500)).arm("grpo", used=tokens(1600))
    assert notes(bench) == ["No arm had a limit: each trained to the end of its schedule."]


def test_a_limit_that_did_not_bind_is_told_with_what_was_used(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(48_000), stopped=STOPPED, generated_tokens=48_000)
    bench.arm("raft", used=tokens(35_100), generated_tokens=48_000)
    bench.arm("rloo", used=tokens(47_000), stopped=("generated_tokens", None), generated_tokens=48_000)
    assert notes(bench)[1:] == [
        "raft ended by its schedule at 35,100 of 48,000 generated tokens: the limit did not bind it.",
        "1 of 2 seeds of rloo ended by the schedule: the limit did not bind that one.",
    ]


def test_arms_that_ended_alike_are_told_in_one_sentence(bench: Bench) -> None:
    for arm in ("dpo", "kto"):
        bench.arm(arm, used=tokens(35_100), generated_tokens=48_000)
    assert notes(bench)[1:] == [
        "dpo and kto ended by their schedule at 35,100 of 48,000 generated tokens: the limit did not bind them."
    ]


def test_a_pause_is_told_and_is_no_end_of_the_schedule(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(900), generated_tokens=1000, share=0.5)
    bench.arm("dpo", used=tokens(900), stopped=STOPPED, generated_tokens=1000)
    assert notes(bench) == [
        "ppo paused at 50 % of training.",
        "All arms had the same limit: 1,000 generated tokens, shared stages not counted.",
    ]
    assert ending(bench.summary(), "ppo") == "a pause"


def test_arms_that_pause_without_a_limit_are_not_said_to_have_ended(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(900), share=0.25).arm("dpo", used=tokens(900), share=0.25)
    assert notes(bench) == ["dpo and ppo paused at 25 % of training."]


def test_what_ended_an_arm_is_a_word_and_never_a_blank(bench: Bench) -> None:
    bench.arm("sft")
    bench.arm("bound", used=tokens(50), stopped=STOPPED, generated_tokens=50)
    bench.arm("done", used=tokens(40), generated_tokens=50)
    bench.arm("free", used=tokens(60))
    bench.arm("mixed", used=tokens(50), stopped=("generated_tokens", "money"), generated_tokens=50, money=1.0)
    summary = bench.summary()
    arms = summary["cost"]["budget"]["arms"]
    words = {
        "bound": "generated tokens", "done": "its schedule", "free": "no limit", "mixed": "differs by seed",
        "sft": "not trained",
    }  # fmt: skip
    assert {arm: ending(summary, arm) for arm in arms} == words
    assert {arm: record["stopped_by"] for arm, record in arms.items()} == {
        "bound": "generated_tokens", "done": None, "free": None, "mixed": None, "sft": None,
    }  # fmt: skip
    text = markdown(summary)
    page = render(StudyResults("s", tuple(bench.trials), ()), summary)
    for arm, word in words.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {arm} | by itself"))
        assert row.endswith(f"| {word} |")
        assert f"stopped by: {word}</span>" in page


def test_the_notes_stand_beside_the_verdict_everywhere(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(1500), stopped=STOPPED, generated_tokens=1500)
    bench.arm("dpo", used=tokens(0) | {"trained_tokens": 9}, offline=True)
    summary = bench.summary()
    (note,) = summary["cost"]["budget"]["notes"]
    console = Console(width=300, file=io.StringIO())
    print_table(summary, console)
    assert f"\n{note}\n" in console.file.getvalue()  # type: ignore[attr-defined]
    assert f"- {escape(note)}" in markdown(summary).split("## ")[0]
    page = render(StudyResults("s", tuple(bench.trials), ()), summary)
    assert note in page.split('id="verdict"')[1].split("</section>")[0]
    assert views.LABELS_NOTE.split("'")[1] in page
    assert escape(views.LABELS_NOTE) in markdown(summary)


def test_unlike_price_lists_are_told_and_kept_by_arm(bench: Bench) -> None:
    dear = PRICES | {"human_label": 5.0}
    bench.arm("ppo", used=tokens(100)).arm("dpo", used=tokens(100), offline=True, prices=dear)
    summary = bench.summary()
    budget = summary["cost"]["budget"]
    assert budget["notes"][-1] == "dpo and ppo have different price lists: their money cannot be compared."
    assert budget["prices"] is None
    assert {arm: record["prices"]["human_label"] for arm, record in budget["arms"].items()} == {"dpo": 5.0, "ppo": 0.5}
    page = render(StudyResults("s", tuple(bench.trials), ()), summary)
    assert "Prices of dpo: " in page
    assert "Prices of ppo: " in page
    assert "in money" not in summary["cost"]["sentence"]


def test_equal_price_lists_are_told_once(bench: Bench) -> None:
    bench.arm("ppo", used=tokens(100)).arm("dpo", used=tokens(100), offline=True)
    summary = bench.summary()
    assert summary["cost"]["budget"]["prices"] == PRICES
    assert "price" not in " ".join(summary["cost"]["budget"]["notes"])


@pytest.mark.parametrize("resource", ["labels", "money"])
def test_a_limit_that_counts_the_labels_of_some_arms_only_is_told(bench: Bench, resource: str) -> None:
    limit: dict[str, Any] = {resource: 100}
    bench.arm("dpo", used=tokens(100), stopped=(resource, resource), offline=True, **limit)
    bench.arm("ppo", used=tokens(100), stopped=(resource, resource), **limit)
    assert notes(bench)[-1] == (
        f"The limit on {resource} counts the labels that dpo learned from, but not those that the reward model of ppo "
        "came from; budget.charge=full counts both."
    )


@pytest.mark.parametrize(
    "budget",
    [
        {"labels": 100, "charge": "full"},
        {"generated_tokens": 100},
        {"money": 100, "prices": PRICES | {"human_label": 0.0}},
    ],
)
def test_a_limit_that_treats_labels_alike_needs_no_word(bench: Bench, budget: dict[str, Any]) -> None:
    bench.arm("dpo", used=tokens(100), offline=True, **budget).arm("ppo", used=tokens(100), **budget)
    assert not [note for note in notes(bench) if "reward model" in note]


def test_the_sentence_on_costs_has_every_trained_arm(bench: Bench) -> None:
    bench.arm("sft").arm("ppo", used=tokens(100), seconds=95).arm("dpo", used=tokens(100), offline=True, seconds=20)
    assert bench.summary()["cost"]["sentence"].startswith(
        "A seed cost, in time of its own, dpo 20 s and ppo 1 min 35 s, on top of 6.0 s of shared stages; in money, "
        "with all shared stages and their labels, dpo 256.0"
    )


def test_with_many_arms_the_sentence_has_the_named_one_and_the_extremes(bench: Bench) -> None:
    for place in range(7):
        bench.arm(f"a{place}", used=tokens(100), seconds=20 + place)
    text = bench.summary()["cost"]["sentence"]
    assert "own, a6 (the dearest) 26 s and a0 (the cheapest) 20 s, on top" in text
