"""Critique, revision, fine-tuning, AI labels and PPO, with a tiny model that writes: nonsense, but its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rft.config import compose
from rft.data.offline import read_table
from rft.report.costs import costs
from rft.report.load import load_study
from rft.store import Store
from rft.study.pipeline import Pipeline
from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import OF, ON_POLICY, REVISED, TINY, Result, Warm, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

ANY = ("start=revised", "feedback=ai", "judge=constitution", *REVISED)
FROZEN = ("algorithm=ppo", "algorithm.iterations=1", "algorithm.prompts_per_iteration=8", "algorithm.lr=1e-30")
ARMS = {
    "constitutional": ("algorithm=constitutional", *REVISED, *ON_POLICY),
    "dpo": (*OF["dpo"], *ANY),
    "sl-cai": ("algorithm=sft", *ANY),
    "frozen": (*FROZEN, *ANY),
    "ppo": OF["ppo"],
}
BEFORE = ["sft", "candidates", "revisions", "preferences", "reward_model"]


@pytest.fixture(scope="module")
def arms(sweep: Sweep, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Trials from a revised start, and one of PPO from the common one, in the store of the sweep."""
    cwd = tmp_path_factory.mktemp("constitutional")
    store = without_policies(sweep.store, cwd / "store")
    for arm, overrides in ARMS.items():
        outcome = warm(["run", *overrides, f"arm={arm}", "study=revised", *TINY], cwd, store)
        assert outcome.code == 0, outcome.stderr
    return {arm: Result(trial_folder(cwd, arm, study="revised"), store) for arm in ARMS}


def _manifest(result: Result, stage: str) -> Any:
    entry = Store(result.store).find(stage, result.record["stages"][stage]["key"])
    assert entry is not None
    return entry


def test_all_start_alike_and_share_the_revisions(arms: dict[str, Result], sweep: Sweep) -> None:
    plain = sweep.trials["ppo"].record["stages"]
    for arm, result in arms.items():
        stages = result.record["stages"]
        assert ("revisions" in stages) == (arm != "ppo")
        for shared in ("questions", "sft", "candidates"):  # found, not made anew
            assert stages[shared]["key"] == plain[shared]["key"]
            assert shared not in result.computed
    revised = [result for arm, result in arms.items() if arm != "ppo"]
    assert len({result.record["stages"]["revisions"]["key"] for result in revised}) == 1
    assert [("revisions" in result.computed) for result in revised] == [True, False, False, False]
    assert arms["ppo"].computed == {"policy", "evaluation"}
    assert "revisions" not in _manifest(arms["ppo"], "policy").inputs


def test_both_texts_stay_readable(arms: dict[str, Result]) -> None:
    result = arms["constitutional"]
    rows = read_table(result.entry("revisions") / "revisions.parquet")
    principles = set(result.record["config"]["judge"]["principles"])
    candidates = {row["row"]: row for row in read_table(result.entry("candidates") / "candidates.parquet")}
    assert len(rows) == 16
    for row in rows:
        assert row["principle"] in principles
        assert row["response"] == candidates[row["row"]]["response"]
        assert row["prompt_ids"] == candidates[row["row"]]["prompt_ids"]
        assert (row["revision"] is None) == (not row["response_ids"])
        assert len(row["response_ids"]) <= 10  # task.response_tokens
    metrics = _manifest(result, "revisions").metrics
    assert metrics["revisions"] == sum(row["revision"] is not None for row in rows) > 0
    assert metrics["excluded"] == 16 - metrics["revisions"]
    assert metrics["nll"] < metrics["nll_before"]
    assert metrics["usage"]["judge_tokens"] > 0
    assert metrics["usage"]["labels"] == 0


@pytest.mark.parametrize("arm", ["sl-cai", "frozen"])
def test_training_begins_at_the_fine_tuned_policy(arms: dict[str, Result], arm: str) -> None:
    """With nothing to train, or at a rate that moves no weight, it is what the policy is in the end too."""
    start = (arms[arm].entry("revisions") / "policy.safetensors").read_bytes()
    assert (arms[arm].entry("policy") / "policy.safetensors").read_bytes() == start


def test_the_reference_is_the_sft_policy_all_the_same(arms: dict[str, Result]) -> None:
    assert abs(arms["ppo"].history()[0]["rollout/kl"]) < 1e-5
    assert arms["constitutional"].history()[0]["rollout/kl"] > 1e-3
    kl = {arm: _manifest(arms[arm], "evaluation").metrics["eval/test/kl"] for arm in ("sl-cai", "frozen")}
    assert kl["sl-cai"] == kl["frozen"] > 1e-3


def test_the_stage_is_charged_to_the_arms_that_begin_there(arms: dict[str, Result], tmp_path: Path) -> None:
    def charged(arm: str) -> list[str]:
        cfg = compose([*ARMS[arm], f"arm={arm}", "study=revised", *TINY])
        return [entry.stage for entry in Pipeline(cfg, Store(arms[arm].store), tmp_path).charged]

    assert charged("constitutional") == BEFORE
    assert charged("dpo") == BEFORE[:-1]
    assert charged("sl-cai") == ["sft", "candidates", "revisions"]
    assert charged("ppo") == [stage for stage in BEFORE if stage != "revisions"]

    found = load_study(arms["ppo"].folder.parents[1], Store(arms["ppo"].store))
    told = costs(found, sorted(ARMS))
    assert told["stages"]["revisions"]["shared"]
    assert told["stages"]["revisions"]["arms"]["ppo"] is None
    made = _manifest(arms["sl-cai"], "revisions").metrics["usage"]
    spent = told["budget"]["arms"]
    flops = sum(_manifest(arms["sl-cai"], stage).metrics["usage"]["flops"] for stage in ("sft", "candidates"))
    assert spent["sl-cai"]["full"]["flops"] == pytest.approx(flops + made["flops"])
    assert spent["sl-cai"]["full"]["labels"] == 0


def test_a_run_can_stop_at_the_revisions(arms: dict[str, Result], warm: Warm, tmp_path: Path) -> None:
    store = arms["ppo"].store
    outcome = warm(["run", *ARMS["constitutional"], "until=revisions", *TINY], tmp_path, store)
    assert outcome.code == 0, outcome.stderr
    refused = warm(["run", "algorithm=ppo", "until=revisions", *TINY], tmp_path, store)
    assert "until=revisions: this start makes none" in refused.error
    other = warm(["run", "algorithm=ppo", "start=revised", *TINY], tmp_path, store)
    assert "FewShotJudge writes no text" in other.error
