"""docs/tuning.md works from top to bottom; what it leaves: equal budgets, the test untouched, nothing done twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rft.budget import RESOURCES
from tests.integration.conftest import without_policies
from tests.integration.harness import OF, REPOSITORY, Outcome, Result, environment, files_under, rft, study
from tests.integration.test_tutorial import blocks

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.xdist_group("tuning"), pytest.mark.timeout(900)]

PAGE = REPOSITORY / "docs" / "tuning.md"
ARMS = {"dpo": {"lr", "beta"}, "ppo": {"lr", "kl_coef"}}


class Tuned:
    """What the page leaves."""

    def __init__(self, cwd: Path) -> None:
        self.cwd, self.store, self.study = cwd, cwd / "store", cwd / "runs" / "tuned"
        first, second = [block.text for block in blocks(PAGE.read_text(encoding="utf-8")) if block.info == "bash"]
        self.first = self._shell(first)
        self.after_first = files_under(self.store)
        self.trials_of_first = {arm: self.tuning(arm)["trials"] for arm in ARMS}
        self.second = self._shell(second)

    def _shell(self, commands: str) -> Outcome:
        own = environment(self.store)
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
        command = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(command, cwd=self.cwd, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def tuning(self, arm: str) -> dict[str, Any]:
        """What is kept of an arm's tuning."""
        found: dict[str, Any] = json.loads((self.study / "tuning" / f"{arm}.json").read_text(encoding="utf-8"))
        return found

    @property
    def tuning_trials(self) -> list[Result]:
        """All of both arms."""
        return [Result(path.parent, self.store) for path in sorted(self.study.glob("tuning/*/*/*/trial.json"))]

    @property
    def final_trials(self) -> list[Result]:
        """All of the three arms with the settings that won; those of an earlier winner have folders of their own."""
        won = {arm: self.tuning(arm)["winner"].items() for arm in ARMS}
        found = [Result(path.parent, self.store) for path in sorted(self.study.glob("*/trial.json"))]
        return [
            one for one in found if won.get(one.record["arm"], {}.items()) <= one.record["config"]["algorithm"].items()
        ]


@pytest.fixture(scope="module")
def tuned(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    cwd = tmp_path_factory.mktemp("tuned")
    shutil.copytree(assets, cwd / "store" / "asset")
    return Tuned(cwd)


def rows(trial: Result) -> dict[str, set[str]]:
    """Prompts that a trial was evaluated on, by split."""
    table = pq.read_table(trial.entry("evaluation") / "evaluation.parquet", columns=["split", "prompt"]).to_pylist()
    return {split: {row["prompt"] for row in table if row["split"] == split} for split in {r["split"] for r in table}}


def test_the_page_shows_what_is_printed(tuned: Tuned) -> None:
    shown = next(b.text for b in blocks(PAGE.read_text(encoding="utf-8")) if b.info == "text")
    printed = tuned.first.stderr.splitlines()
    assert shown.splitlines() == printed[:2]
    assert [line.split(":")[0] for line in printed[2:]] == ["tuned dpo", "tuned ppo"]


def test_every_arm_gets_the_same_number_of_trials_of_the_same_training(tuned: Tuned) -> None:
    for arm, searched in ARMS.items():
        assert len(tuned.trials_of_first[arm]) == 3
        one = tuned.tuning(arm)
        assert len(one["trials"]) == len(one["best_so_far"]) == one["budget"] == 4
        assert one["best_so_far"] == sorted(one["best_so_far"])
        configs = [t.record["config"]["algorithm"] for t in tuned.tuning_trials if t.record["algorithm"] == arm]
        assert len(configs) == 4
        for key in set(configs[0]) - searched:
            assert len({json.dumps(config[key]) for config in configs}) == 1
        for key in searched:
            assert len({config[key] for config in configs}) == 4


def test_the_first_trial_is_the_arm_as_it_is(tuned: Tuned) -> None:
    assert tuned.tuning("dpo")["trials"][0]["settings"] == {"lr": 5e-4, "beta": 0.1}
    assert tuned.tuning("ppo")["trials"][0]["settings"] == {"lr": 1e-3, "kl_coef": 0.1}


def test_tuning_sees_validation_alone_and_the_verdict_test_and_ood_alone(tuned: Tuned) -> None:
    seen, tested = set(), set()
    for trial in tuned.tuning_trials:
        assert set(rows(trial)) == {"validation"}
        seen |= rows(trial)["validation"]
        assert trial.record["seed"] == 1000
        assert trial.record["config"]["evaluation"]["checkpoints"] == 0
    assert len(tuned.final_trials) == 6
    for trial in tuned.final_trials:
        assert set(rows(trial)) == {"test", "ood"}
        tested |= rows(trial)["test"] | rows(trial)["ood"]
        assert trial.record["seed"] in (0, 1)
    assert seen
    assert not seen & tested


def test_the_value_of_a_trial_is_the_mean_gold_on_validation(tuned: Tuned) -> None:
    for trial in tuned.tuning("dpo")["trials"]:
        folder = tuned.study / "tuning" / "dpo" / f"trial-{trial['number']:03}" / "seed-1000"
        table = pq.read_table(Result(folder, tuned.store).entry("evaluation") / "evaluation.parquet", columns=["gold"])
        gold = table.column("gold").to_pylist()
        assert trial["value"] == pytest.approx(sum(gold) / len(gold))


def test_the_winners_settings_are_those_of_the_final_trials(tuned: Tuned) -> None:
    for arm in ARMS:
        one = tuned.tuning(arm)
        best = max(one["trials"], key=lambda trial: trial["value"])
        assert one["winner"] == best["settings"]
        finals = [trial.record["config"] for trial in tuned.final_trials if trial.record["arm"] == arm]
        assert len(finals) == 2
        for config in finals:
            assert {key: config["algorithm"][key] for key in one["winner"]} == one["winner"]
            assert config["sweep"]["trials"] == 0


def test_more_trials_compute_only_the_new_ones(tuned: Tuned) -> None:
    for arm in ARMS:
        assert tuned.tuning(arm)["trials"][:3] == tuned.trials_of_first[arm]
    for trial in tuned.tuning_trials:
        new = trial.folder.parent.name == "trial-003"
        assert trial.computed == ({"policy", "evaluation"} if new else set())


def test_the_summary_has_tuning_and_no_tuning_trial_is_an_arm(tuned: Tuned) -> None:
    summary = json.loads((tuned.study / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["arms"]) == {"sft", *ARMS}
    assert set(summary["tuning"]["arms"]) == set(ARMS)
    assert (summary["tuning"]["budget"], summary["tuning"]["split"]) == (4, "validation")
    for arm in ARMS:
        assert summary["tuning"]["arms"][arm]["best_so_far"] == tuned.tuning(arm)["best_so_far"]
        policies = {trial.entry("policy") for trial in tuned.tuning_trials if trial.record["algorithm"] == arm}
        assert len(policies) == 4
        used = [
            json.loads((entry / "manifest.json").read_text(encoding="utf-8"))["metrics"]["usage"] for entry in policies
        ]
        cost = summary["tuning"]["cost"][arm]
        assert set(cost) == set(RESOURCES)
        for resource in ("prompts", "generated_tokens", "trained_tokens", "flops", "labels"):
            assert cost[resource] == pytest.approx(sum(one[resource] for one in used))
        assert cost["trained_tokens"] > 0
        assert cost["seconds"] > 0
        assert cost["money"] > 0


def test_a_second_run_computes_nothing_and_writes_the_same(tuned: Tuned) -> None:
    stored, kept = files_under(tuned.store), {arm: tuned.tuning(arm) for arm in ARMS}
    records = {trial.folder: trial.record for trial in (*tuned.tuning_trials, *tuned.final_trials)}
    outcome = rft(["compare", "tuned", "sweep.trials=4", "--jobs", "1"], tuned.cwd, tuned.store)
    assert outcome.code == 0, outcome.stderr
    assert files_under(tuned.store) == stored
    assert {arm: tuned.tuning(arm) for arm in ARMS} == kept
    assert {trial.folder: trial.record for trial in (*tuned.tuning_trials, *tuned.final_trials)} == records


def test_an_arm_whose_trials_all_diverge_is_named_and_the_others_are_compared(tuned: Tuned) -> None:
    arms = {"sft": OF["sft"], "dpo": OF["dpo"]}
    high = "sweep.ranges={lr:[1e29,1e30],beta:[0.1,0.2]}"
    study(tuned.cwd / "high", arms=arms, overrides=[*_small(tuned), high, "sweep.trials=1"], sweep="fair_tuning")
    command = ["compare", "high"]
    outcomes = [rft(command, tuned.cwd, tuned.store) for _ in range(2)]
    for outcome in outcomes:
        assert outcome.code == 2
        assert "failed dpo tuning 0 seed 1000: " in outcome.stderr
        assert outcome.stderr.splitlines()[-1].startswith("rft: 1 trials did not end well: dpo (tuning)")
    folder = tuned.cwd / "runs" / "high"
    kept = json.loads((folder / "tuning" / "dpo.json").read_text(encoding="utf-8"))
    assert (kept["best_so_far"], kept["winner"], kept["trials"][0]["value"]) == ([None], None, None)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["arms"]) == {"sft"}
    why = summary["tuning"]["arms"]["dpo"]["failure"]
    assert why.startswith("all 1 tuning trials failed, so it has no winner; the first: ")
    assert [(one["arm"], one["seed"], one["error"]) for one in summary["failed"]] == [("dpo", 0, why)]
    assert summary["tuning"]["cost"]["dpo"]["seconds"] > 0
    log = (folder / "tuning" / "dpo" / "trial-000" / "seed-1000" / "log.txt").read_text(encoding="utf-8")
    assert "diverged before" in log  # the second start trained nothing


def test_trials_that_fall_behind_are_stopped_and_the_others_are_as_if_nothing_had_been_asked(
    tuned: Tuned, tmp_path: Path
) -> None:
    unstopped = {arm: tuned.tuning(arm)["trials"] for arm in ARMS}
    shutil.copytree(tuned.cwd / "tuned", tmp_path / "tuned")
    store = without_policies(tuned.store, tmp_path / "store")
    command = ["compare", "tuned", "sweep.trials=4", "sweep.stopping=halving", "sweep.looks=[0.5]"]
    outcome = rft(command, tmp_path, store)
    assert outcome.code == 0, outcome.stderr
    folder, ends = tmp_path / "runs" / "tuned", []
    for arm in ARMS:
        kept = json.loads((folder / "tuning" / f"{arm}.json").read_text(encoding="utf-8"))
        for trial, before in zip(kept["trials"], unstopped[arm], strict=True):
            assert trial["settings"] == before["settings"]  # draws at random, so far: nothing depends on what was told
            ends.append(trial["stopped"])
            if trial["stopped"]:
                assert (trial["value"], trial["stopped"]["share"]) == (None, 0.5)
                assert trial["seeds"][0]["stages"]["policy"]["used"]["trained_tokens"] < _trained(before)
            else:
                assert trial["value"] == before["value"]
                assert _trained(trial) == _trained(before)  # both parts of its training, each once
        assert kept["winner"] == max((t for t in kept["trials"] if t["value"]), key=lambda t: t["value"])["settings"]
    assert None in ends
    assert any(ends)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["tuning"]["stopping"] == "halving"
    assert "stopped early" in (folder / "report.html").read_text(encoding="utf-8")
    records = [Result(path.parent, store).record["config"]["budget"]["share"] for path in folder.glob("*/*/trial.json")]
    assert records == [1.0] * 6


def _trained(trial: dict[str, Any]) -> float:
    """Tokens that a tuning trial learned from."""
    tokens: float = trial["seeds"][0]["stages"]["policy"]["used"]["trained_tokens"]
    return tokens


def test_without_its_sweep_a_study_does_not_tell_of_the_tuning_of_before(tuned: Tuned) -> None:
    outcome = rft(["compare", "tuned", "--no-run", "--out", "untuned", "sweep=none"], tuned.cwd, tuned.store)
    summary = json.loads((tuned.cwd / "untuned" / "summary.json").read_text(encoding="utf-8"))
    assert summary["tuning"] is None, outcome.stderr
    assert all("is not what the study.yaml has now" in one["error"] for one in summary["failed"])


def _small(tuned: Tuned) -> list[str]:
    """The page's own overrides, whose shared stages are there, without its sweep."""
    import yaml

    found = yaml.safe_load((tuned.cwd / "tuned" / "study.yaml").read_text(encoding="utf-8"))["overrides"]
    return [override for override in found if not override.startswith("sweep")]
