"""What a seed draws anew: with replicate=policy the training only, with replicate=pipeline its feedback as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.config import compose
from rft.errors import UserError
from rft.store import Store
from rft.study.pipeline import Pipeline
from rft.study.study import StudySpec, load_study, plan
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY

ANEW = ("candidates", "preferences", "reward_model")


def keys(store: Path, folder: Path, arm: str, *overrides: str) -> dict[str, str]:
    """The addresses of the stages up to the reward model, computed where they are not there."""
    pipeline = Pipeline(compose([*OF[arm], *TINY, "tracker=none", *overrides]), Store(store), folder)
    pipeline.run("reward_model")
    return {stage: use["key"] for stage, use in pipeline.done.items()}


@pytest.fixture(scope="module")
def found(sweep: Sweep, assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Addresses by what was asked for, from a store that holds the sweep's stages of replicate=policy."""
    folder, store = tmp_path_factory.mktemp("replicate"), sweep.store
    return {
        "by default": keys(store, folder, "dpo"),
        "policy, seed 1": keys(store, folder, "dpo", "replicate=policy", "seed=1"),
        "pipeline, seed 0": keys(store, folder, "dpo", "replicate=pipeline", "seed=0"),
        "pipeline, seed 1": keys(store, folder, "dpo", "replicate=pipeline", "seed=1"),
        "pipeline, seed 1, ppo": keys(store, folder, "ppo", "replicate=pipeline", "seed=1"),
    }


def test_seeds_of_a_policy_share_everything_before_it(found: dict[str, dict[str, str]]) -> None:
    assert found["policy, seed 1"] == found["by default"] == found["pipeline, seed 0"]


def test_seeds_of_a_pipeline_share_the_start_only(found: dict[str, dict[str, str]]) -> None:
    first, second = found["pipeline, seed 0"], found["pipeline, seed 1"]
    assert {stage for stage in first if first[stage] != second[stage]} == set(ANEW)


def test_arms_of_one_seed_share_what_it_drew(found: dict[str, dict[str, str]]) -> None:
    assert found["pipeline, seed 1, ppo"] == found["pipeline, seed 1"]


def test_default_addresses_are_those_of_the_sweep(found: dict[str, dict[str, str]], sweep: Sweep) -> None:
    stages = sweep.trials["dpo"].record["stages"]
    assert all(stages[stage]["key"] == key for stage, key in found["by default"].items() if stage in stages)


def test_a_study_plans_the_shared_stages_of_each_seed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = "replicate: {}\noverrides: [model=tiny]\nseeds: [0, 1]\narms: {{ppo: [algorithm=ppo], dpo: [algorithm=dpo]}}"
    (folder / "study.yaml").write_text(text.format("pipeline"), encoding="utf-8")
    jobs = plan(*load_study(folder), tmp_path)
    assert [[job.name for job in wave] for wave in jobs.shared] == [
        [f"{stage} (ppo seed {seed})" for seed in (0, 1)] for stage in ("candidates", "reward_model")
    ]
    assert len({job.folder for wave in jobs.shared for job in wave}) == 4
    assert all("replicate=pipeline" in job.overrides for job in jobs.trials)
    (folder / "study.yaml").write_text(text.format("policy"), encoding="utf-8")
    assert [[job.name for job in wave] for wave in plan(*load_study(folder), tmp_path).shared] == [
        ["candidates (ppo)"], ["reward_model (ppo)"],
    ]  # fmt: skip
    (folder / "study.yaml").write_text(text.format("prompts"), encoding="utf-8")
    with pytest.raises(UserError, match=r"study\.yaml: replicate: .*policy.*pipeline"):
        load_study(folder)


def test_arms_that_repeat_different_things_are_refused(tmp_path: Path) -> None:
    arms = {"a": ["algorithm=ppo"], "b": ["algorithm=dpo", "replicate=pipeline"]}
    with pytest.raises(UserError, match="arms b ask for pipeline, the others for policy"):
        plan("s", StudySpec(overrides=["model=tiny"], arms=arms), tmp_path)
