"""Every study that is shipped composes, arm by arm, and keeps what its README says of other studies."""

from __future__ import annotations

import pytest

from rft.config import compose
from rft.study.study import StudySpec, load_study
from tests.architecture.source import ROOT

STUDIES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/study.yaml"))


def spec(name: str) -> StudySpec:
    return load_study(ROOT / "experiments" / name)[1]


ARMS = [(study, arm) for study in STUDIES for arm in spec(study).arms]


def test_there_are_studies_with_a_readme() -> None:
    assert {"default", "judge_quality", "rlaif"} <= set(STUDIES)
    for name in STUDIES:
        text = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n\n**Question.**"), name


@pytest.mark.parametrize(("study", "arm"), ARMS)
def test_every_arm_composes(study: str, arm: str) -> None:
    found = spec(study)
    cfg = compose([*found.overrides, *found.arms[arm], f"study={study}", f"arm={arm}"])
    assert cfg.arm == arm


def test_judge_quality_differs_in_accuracy_alone() -> None:
    found = spec("judge_quality")
    made = {arm: compose([*found.overrides, *own]) for arm, own in found.arms.items()}
    seen = set()
    for arm, cfg in made.items():
        if arm == "sft":
            continue
        algorithm, _, percent = arm.partition("_")
        assert (cfg.algorithm.name, cfg.judge.accuracy) == (algorithm, int(percent) / 100)
        assert cfg.judge.position_bias == cfg.judge.length_bias == cfg.judge.noise == 0
        seen.add((algorithm, percent))
    assert seen == {(a, p) for a in ("ppo", "dpo") for p in ("60", "70", "80", "90", "100")}


def test_rlaif_shares_its_arms_with_the_default_study() -> None:
    default, rlaif = spec("default"), spec("rlaif")
    assert rlaif.overrides == default.overrides
    assert rlaif.seeds[: len(default.seeds)] == default.seeds
    for arm in ("ppo", "dpo", "rlaif", "sft"):
        assert rlaif.arms[arm] == default.arms[arm]
