"""What a trial is called: the same for the same settings, another for each that decides its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.config import compose
from rft.store.names import LONGEST_TRIAL, TRIAL, trial_name
from rft.study.identity import name_of, trial_id
from rft.study.study import StudySpec, plan

TINY = ("model=tiny", "algorithm=dpo")


def test_settings_that_decide_no_result_change_no_identity() -> None:
    one = trial_id(compose(TINY))
    assert one == trial_id(compose((*TINY, "study=other", "arm=x", "tracker=none", "until=sft")))
    assert one == trial_id(compose(("algorithm=dpo", "algorithm.beta=0.1", "model=tiny")))  # its default, written out


@pytest.mark.parametrize("changed", ["seed=1", "algorithm.beta=0.2", "task.test_prompts=5", "replicate=pipeline"])
def test_any_other_setting_does(changed: str) -> None:
    assert trial_id(compose(TINY)) != trial_id(compose((*TINY, changed)))


def test_a_name_tells_arm_and_seed() -> None:
    cfg = compose((*TINY, "arm=low-s3", "seed=12"))
    found = TRIAL.fullmatch(name_of(cfg))
    assert found is not None
    assert (found["arm"], found["seed"]) == ("low-s3", "12")


def test_long_arms_are_cut_and_stay_apart() -> None:
    long = "ä" * 100
    names = {trial_name(arm, 0, "0123abcd") for arm in (long, long + "b", long + "c")}
    assert len(names) == 3
    assert all(len(name.encode()) <= LONGEST_TRIAL for name in names)


def test_a_study_names_its_trials_as_runs_name_themselves(tmp_path: Path) -> None:
    spec = StudySpec(overrides=list(TINY), arms={"low": ["algorithm.beta=0.05"]}, seeds=[0, 1])
    jobs = plan("s", spec, tmp_path).trials
    assert [job.folder.name for job in jobs] == [name_of(compose(job.overrides)) for job in jobs]
    assert len({job.folder for job in jobs}) == 2
