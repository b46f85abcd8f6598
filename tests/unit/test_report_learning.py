"""Curves, labels and reward models in the summary are those of the stages, and absent where the store has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft.budget.usage import USAGE
from rft.report import summarise
from rft.report.curves import POINTS
from rft.report.figures import frontier
from rft.report.html import render
from rft.report.learning import checkpoint_gold, curves, preferred_axis
from tests.synthetic_study import ITERATIONS, PREFERENCES, PRICES, REWARD_MODEL, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_curves_are_the_histories_and_their_mean_over_seeds(study: Study) -> None:
    curve = summarise(study.fill(("sft", "ppo")).load())["curves"]["rollout/reward"]["ppo"]
    histories = [[row["rollout/reward"] for row in study.history("ppo", seed)] for seed in range(3)]
    assert curve["mean"]["steps"] == [4 * (i + 1) for i in range(ITERATIONS)]
    assert curve["mean"]["values"] == pytest.approx(np.mean(histories, axis=0), rel=1e-5)
    assert [seed["seed"] for seed in curve["seeds"]] == [0, 1, 2]
    assert curve["seeds"][2]["values"] == pytest.approx(histories[2], rel=1e-5)


def test_the_mean_of_the_checkpoints_is_by_their_number(tmp_path: Path) -> None:
    """A limit ends each seed elsewhere, so that no fraction but the end's comes up twice."""
    summary = summarise(Study(tmp_path, checkpoints=3).fill(("sft", "ppo")).load())
    found = summary["frontier"]["ppo"]
    assert len({point["fraction"] for point in found}) == 3 * 3 + 1
    assert [point["checkpoint"] for point in found] == [0, 1, 2, None] * 3
    figure = checkpoint_gold(summary, "steps")
    assert figure is not None
    (mean,) = [series for series in figure.series if series.name == "ppo, mean of 3 seeds"]
    places = [[point for point in found if point["checkpoint"] == number] for number in (0, 1, 2, None)]
    assert mean.x == pytest.approx([np.mean([point["step"] for point in place]) for place in places])
    start = summary["arms"]["sft"]["splits"]["test"]["gold"]["mean"]
    assert mean.y == pytest.approx([start + np.mean([point["gain"] for point in place]) for place in places])


def test_a_checkpoint_that_one_seed_lacks_is_in_no_mean(tmp_path: Path) -> None:
    study = Study(tmp_path, checkpoints=3).fill(("sft", "ppo"), seeds=2)
    study.trial("ppo", 2, change_points=lambda rows: rows.__delitem__(slice(24, None)))
    figure = checkpoint_gold(summarise(study.load()), "steps")
    assert figure is not None
    lengths = {series.name: len(series.y) for series in figure.series}
    assert lengths == {"ppo, seed 0": 4, "ppo, seed 1": 4, "ppo, seed 2": 2, "ppo, mean of 3 seeds": 2}


def test_an_arm_has_only_the_curves_that_it_logged(study: Study) -> None:
    curves = summarise(study.fill().load())["curves"]
    assert list(curves["rollout/reward"]) == ["ppo", "rlaif"]
    assert list(curves["train/accuracy"]) == ["dpo"]
    assert not any("sft" in arms for arms in curves.values())


def test_a_mean_is_taken_where_every_seed_has_a_value(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def history(arm: str, seed: int) -> list[dict[str, Any]]:
        rows = [{"step": step, "train/x": float(seed)} for step in range(1, 5 - seed)]
        return [*rows, {"step": 9, "train/x": float("nan")}]

    monkeypatch.setattr(study, "history", history)
    curve = summarise(study.fill(("ppo",), seeds=2).load())["curves"]["train/x"]["ppo"]
    assert curve["mean"] == {"steps": [1, 2, 3], "values": [0.5, 0.5, 0.5]}
    assert curve["seeds"][0]["steps"] == [1, 2, 3, 4]


def test_a_long_curve_is_thinned_and_keeps_its_ends(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "history", lambda arm, seed: [{"step": i, "train/x": i * 1.0} for i in range(1, 5001)])
    mean = summarise(study.fill(("ppo",), seeds=1).load())["curves"]["train/x"]["ppo"]["mean"]
    assert len(mean["steps"]) == POINTS
    assert (mean["steps"][0], mean["steps"][-1]) == (1, 5000)
    assert mean["values"] == mean["steps"]


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_history_costs_its_curve_and_nothing_else(study: Study, damage: str) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    key = study.load().arm("ppo")[0].stages["policy"].key
    file = study.store.root / "policy" / key[:16] / "history.json"
    if damage == "flip":
        file.write_text(file.read_text().replace("0", "1", 1))
    else:
        file.unlink()
    results = study.load()
    summary = summarise(results)
    assert len(summary["arms"]["ppo"]["seeds"]) == 2
    # Without it nobody knows how many steps there were.
    assert [point["step"] for point in summary["frontier"]["ppo"]] == [None, 4 * ITERATIONS]
    assert [point["step"] for point in summary["frontier"]["sft"]] == [0, 0]
    assert [seed["seed"] for seed in summary["curves"]["rollout/reward"]["ppo"]["seeds"]] == [1]


def test_feedback_is_what_the_stages_measured_by_the_arms_that_used_it(study: Study) -> None:
    feedback = summarise(study.fill().load())["feedback"]
    for stage, measured in (("preferences", PREFERENCES), ("reward_model", REWARD_MODEL)):
        by_source = {group["source"]: group for group in feedback[stage]}
        assert by_source["simulated"]["arms"] == ["sft", "dpo", "ppo"]
        assert by_source["ai"]["arms"] == ["rlaif"]
        for source, metrics in measured.items():
            known = {name: value for name, value in metrics.items() if value is not None}
            assert {name: found["mean"] for name, found in by_source[source]["metrics"].items()} == known


def test_sources_agree_on_the_pairs_that_neither_calls_a_tie(study: Study) -> None:
    # 40 pairs, the last 8 tied in simulation; the judge contradicts in every fourth.
    agreement = summarise(study.fill().load())["feedback"]["agreement"]
    assert agreement == [{"a": "simulated (sft, dpo, ppo)", "b": "ai (rlaif)", "pairs": 32, "share": 0.75}]


def test_labels_of_other_candidates_are_not_compared(study: Study) -> None:
    study.fill(("sft", "ppo"))
    study.trial("rlaif", 0, start="another model")
    assert summarise(study.load())["feedback"]["agreement"] == []


def test_a_pipeline_repeated_by_seed_shows_the_range(study: Study) -> None:
    def own_reward_model(seed: int) -> Any:
        metrics = {"heldout_accuracy": 0.7 + 0.1 * seed}
        return lambda record: record["stages"].update(
            reward_model=study.stage("reward_model", of=seed, metrics=metrics)
        )

    for seed in range(2):
        study.trial("ppo", seed, change=own_reward_model(seed))
    (group,) = summarise(study.load())["feedback"]["reward_model"]
    assert group["results"] == 2
    assert group["metrics"]["heldout_accuracy"] == pytest.approx({"mean": 0.75, "min": 0.7, "max": 0.8})


def test_a_study_whose_store_entries_are_gone_has_a_page_without_them(study: Study) -> None:
    study.fill(("sft", "ppo"))
    study.store.gc(stages=["policy", "preferences", "reward_model"])
    results = study.load()
    summary = summarise(results)
    assert summary["curves"] == {}
    assert summary["feedback"]["preferences"][0]["metrics"] == {}
    assert "<h2>Learning curves" not in render(results, summary)


def test_the_page_shows_curves_labels_and_reward_models(study: Study) -> None:
    results = study.fill().load()
    page = render(results, summarise(results))
    assert "Reward while training" in page
    assert "KL while training" in page
    assert 'data-plot="rollout/kl"' in page
    for text in (
        "<b>84 %</b>",
        "<b>78 %</b>",
        "<b>72 %</b>",
        "<b>85 %</b>",
        "of the 32 pairs that neither calls a tie",
    ):
        assert text in page
    assert json.dumps(summarise(results)["curves"], allow_nan=False)


@pytest.mark.parametrize("charge", ["training", "full"])
def test_axes_count_what_the_budget_counts(study: Study, charge: str) -> None:
    """By hand: candidates of 35,000 tokens, 500 labels at 0.3 of three people; dpo is ended at 24·16 labels learned."""
    sft = study.stage("sft", model="smollm2")
    candidates = study.stage("candidates", of="charge", metrics={USAGE: {"generated_tokens": 35_000.0}})
    preferences = study.stage(
        "preferences", inputs={"candidates": candidates["key"]},
        metrics={USAGE: {"labels": 500.0, "human_labels": 1500.0}},
    )  # fmt: skip
    model = study.stage("reward_model", of="charge", inputs={"preferences": preferences["key"]}, metrics={USAGE: {}})
    shared = {"sft": sft, "candidates": candidates, "preferences": preferences, "reward_model": model}
    learned = {"ppo": ("sft", "reward_model"), "dpo": ("sft", "candidates", "preferences")}
    for arm, names in learned.items():
        policy = study.policy(arm, 0, {name: shared[name]["key"] for name in names})

        def change(record: dict[str, Any], policy: dict[str, Any] = policy) -> None:
            record["stages"] |= {**shared, "policy": policy}
            record["config"]["budget"] |= {"charge": charge, "generated_tokens": 49_400.0}
            record["config"]["budget"]["prices"] = PRICES | {"core_hour": 0.0}

        study.trial(arm, 0, change=change)
    summary = summarise(study.load())
    (ppo,), (dpo,) = summary["cost"]["axes"]["ppo"], summary["cost"]["axes"]["dpo"]
    ends = [(one["generated_tokens"][-1], one["labels"][-1], one["money"][-1]) for one in (ppo, dpo)]
    captions = {figure.caption for figure in curves(summary)[0]}
    if charge == "training":
        assert ends == [(14_400.0, 0.0, 0.0), (0.0, 384.0, pytest.approx(115.2))]
        assert not any("shared stages" in caption for caption in captions)
    else:
        assert ends == [(49_400.0, 500.0, pytest.approx(150.0)), (35_000.0, 500.0, pytest.approx(150.0))]
        assert (ppo["steps"][0], ppo["generated_tokens"][0], ppo["labels"][0]) == (0, 35_000.0, 500.0)
        assert all("Over a resource curves begin at what the shared stages used" in caption for caption in captions)
    assert preferred_axis(summary) == "steps"  # dpo generates nothing while it trains


def test_checkpoints_on_easy_questions_make_no_kink(tmp_path: Path) -> None:
    """The points of training answer the 12 easiest questions, where gold is higher for the start policy as well."""
    study = Study(tmp_path, checkpoints=2)
    own = study.rows

    def rows(arm: str, seed: int) -> list[dict[str, Any]]:
        found = own(arm, seed)
        for n, row in enumerate(found):
            row["gold"] = (0.6 if n % 2 == 0 else 0.2) + (0.0 if arm == "sft" else 0.1)
        return found

    study.rows = rows  # type: ignore[method-assign]
    summary = summarise(study.fill(("sft", "ppo"), seeds=2).load())
    gold = {(point["checkpoint"], point["seed"]): point["gold"] for point in summary["frontier"]["ppo"]}
    assert gold[1, 0] == pytest.approx(0.6 + 0.1 * 2 / 3)  # raw, and above the final policy's
    assert gold[None, 0] == pytest.approx(0.5)
    wanted = [0.4 + 0.1 / 3, 0.4 + 0.2 / 3, 0.5]
    drawn = frontier(summary), checkpoint_gold(summary, "steps")
    for figure in drawn:
        assert figure is not None
        own_line = next(one for one in figure.series if one.arm == 1 and one.kind in ("path", "line"))
        assert own_line.y[:3] == pytest.approx(wanted, abs=1e-3)
        assert "A checkpoint answered some of the questions only" in figure.caption
