"""A study's file and plan: what is refused, which jobs share what, and what a job leaves that did not end well."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from rft.callbacks.trackers.base import Tracker
from rft.config import compose
from rft.config.schemas import Replicate
from rft.errors import UserError
from rft.machine import machine
from rft.store import Entry, Store
from rft.study.jobs import Job, may_fork
from rft.study.launch import Launcher
from rft.study.pipeline import Pipeline
from rft.study.study import StudySpec, load_study, plan
from rft.study.trial import Trial

TINY = ["model=tiny"]


def spec(**arms: list[str]) -> StudySpec:
    return StudySpec(overrides=TINY, arms=arms, seeds=[0, 1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "holds no keys"),
        (b"arms: {caf\xe9: []}", "cannot be read as text"),
        (b"arms: [", r"study\.yaml:1: not YAML"),
        (b"arm: {a: []}", "keys are question, overrides, arms"),
        (b"arms: {}", "arms: is empty"),
        (b"budget: {labels: 10}", "budget: is no key of a study; write budget.labels=10 under overrides:"),
        (
            b"budget: {money: 2.5, charge: full, prices: {human_label: 0.1}}",
            "write budget.money=2.5 and budget.charge=full and budget.prices.human_label=0.1 under overrides:",
        ),
        (b"algorithm: ppo", "write algorithm=ppo under overrides:"),
        (b"seed: 3", "keys are question, overrides, arms, seeds"),
        (b"budget:", "budget: is no key of a study; write budget"),
        (b"evaluation: {splits: [test, ood]}", r"write evaluation.splits=\['test', 'ood'\] under overrides:"),
        (b"sweep: {trials: 4}", "write sweep.trials=4 under overrides:"),
        (b"arms: {a: []}\nseeds: [0, 0]", "different numbers"),
        (b"arms: {a: []}\nseeds: [-1]", "0 or more"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line_that_names_it(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        load_study(tmp_path)
    assert str(tmp_path / "study.yaml") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_study_has_its_folders_whole_name(tmp_path: Path) -> None:
    folder = tmp_path / "scaling.v2"
    folder.mkdir()
    (folder / "study.yaml").write_text("arms: {a: []}", encoding="utf-8")
    assert load_study(folder)[0] == load_study(folder / "study.yaml")[0] == "scaling.v2"


def test_arms_share_a_start_and_those_of_one_feedback_a_reward_model(tmp_path: Path) -> None:
    jobs = plan("s", spec(ppo=["algorithm=ppo"], rlaif=["algorithm=rlaif"], dpo=["algorithm=dpo"]), tmp_path)
    start, feedback = jobs.shared
    assert [job.name for job in start] == ["candidates (ppo)"]
    assert [job.name for job in feedback] == ["reward_model (ppo)", "reward_model (rlaif)"]
    assert [job.name for job in jobs.trials] == [f"{arm} seed {s}" for arm in ("ppo", "rlaif", "dpo") for s in (0, 1)]
    assert len({job.folder for wave in (*jobs.shared, jobs.trials) for job in wave}) == 9
    people, judge = ((job.folder,) for job in feedback)
    assert [job.after for job in jobs.trials] == [people, people, judge, judge, people, people]


def test_a_trial_comes_after_the_reward_model_of_its_own_seed(tmp_path: Path) -> None:
    asked = replace(spec(ppo=["algorithm=ppo"], rlaif=["algorithm=rlaif"]), replicate=Replicate.pipeline)
    jobs = plan("s", asked, tmp_path)
    models = {job.folder: job.name for job in jobs.shared[-1]}
    assert [[models[folder] for folder in job.after] for job in jobs.trials] == [
        [f"reward_model ({arm} seed {seed})"] for arm in ("ppo", "rlaif") for seed in (0, 1)
    ]


def test_arms_with_other_candidates_have_a_start_of_their_own(tmp_path: Path) -> None:
    jobs = plan("s", spec(a=["algorithm=dpo"], b=["algorithm=dpo", "candidates.seed=1"]), tmp_path)
    assert [len(wave) for wave in jobs.shared] == [2, 2]


@pytest.mark.parametrize("arm", ["../elsewhere", "a/b", ""])
def test_an_arm_that_would_leave_the_studys_folder_is_refused(tmp_path: Path, arm: str) -> None:
    with pytest.raises(UserError, match="name of a folder"):
        plan("s", spec(**{arm: ["algorithm=sft"]}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_old_record_does_not_pass_for_a_job_that_failed(tmp_path: Path) -> None:
    folder = tmp_path / "ppo" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"status": "done", "seed": 0}), encoding="utf-8")
    job = Job("ppo seed 0", ("algorithm=ppo", "algorithm.clip_rang=2"), folder, forks=False)
    with Launcher(Console(file=io.StringIO())) as launcher:
        failed = launcher.run([job], 1, "trials")
    assert "did you mean 'clip_range'?" in failed["ppo seed 0"]
    record = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    assert (record["status"], record["seed"]) == ("failed", 0)
    assert "clip_range" in record["error"]


def test_trials_of_several_processes_or_on_a_gpu_start_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft.study.jobs.GPUS", (str(tmp_path / "gpu"),))
    arms = {name: ["algorithm=dpo", f"strategy={name}"] for name in ("auto", "cpu", "ddp")}
    for expected in ({"auto": True, "cpu": True, "ddp": False}, {"auto": False, "cpu": True, "ddp": False}):
        jobs = plan("s", spec(**arms), tmp_path)
        assert {job.arm: job.forks for job in jobs.trials} == expected
        (tmp_path / "gpu").touch()


def test_a_strategy_that_says_nothing_of_its_devices_starts_plainly() -> None:
    assert not may_fork({"accelerator": "cpu"})
    assert not may_fork({"accelerator": "cpu", "distribution": "single", "devices": 2})


def test_a_record_says_what_computed_the_results_also_when_they_are_found_again(tmp_path: Path) -> None:
    one = Trial(compose(["model=tiny"]), tmp_path, Store(tmp_path / "store"))
    pipeline = Pipeline(one.cfg, one.store, tmp_path)
    pipeline.done = {"sft": {"computed": False}, "policy": {"computed": True}}
    made = one._record(pipeline, "done", None, None)["made"]
    assert set(made) == {"commit", "dirty", "machine", "packages"}
    assert made["machine"] == machine()
    (tmp_path / "trial.json").write_text(json.dumps({"made": {"commit": "before"}}), encoding="utf-8")
    pipeline.done["policy"]["computed"] = False
    assert one._record(pipeline, "done", None, None)["made"] == {"commit": "before"}
    (tmp_path / "trial.json").unlink()
    found = one._record(pipeline, "done", None, None)
    assert (found["made"], found["environment"]["packages"]["torch"]) == (None, metadata.version("torch"))


class Ended(Tracker):
    """Knows how it was ended."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, float], bool]] = []

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        self.told.append((dict(metrics), failed))


class Computed(Pipeline):
    """Has an evaluation, and somebody presses Ctrl-C while the tracker is told of it."""

    def run(self, until: str) -> Entry | None:
        return cast(Entry, object())

    @property
    def policy(self) -> Entry:  # type: ignore[override]
        raise KeyboardInterrupt


def test_a_tracked_run_is_ended_by_a_ctrl_c_after_the_last_stage_too(tmp_path: Path) -> None:
    one = Trial(compose(["model=tiny", "tracker=none"]), tmp_path, Store(tmp_path / "store"))
    one.pipeline, one.tracker = Computed(one.cfg, one.store, tmp_path), (ended := Ended())
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert ended.told == [({}, True)]
    assert json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))["status"] == "failed"
