"""The trials of a sweep as people are told of them."""

from __future__ import annotations

from pathlib import Path

from rft.config import compose
from rft.study.jobs import Job
from rft.study.sweep import SweepTrial, shared_waves, sweep_trial, told_apart


def job(number: int, seed: int, *overrides: str) -> Job:
    return Job(
        f"dpo seed {seed}", ("algorithm=dpo", *overrides, f"seed={seed}", "arm=dpo"), Path(str(number)), seed=seed
    )


def test_trials_of_one_arm_and_seed_say_in_what_they_differ() -> None:
    sweep = [job(0, 0, "algorithm.beta=0.1"), job(1, 0, "algorithm.beta=0.2"), job(2, 1, "algorithm.beta=0.1")]
    assert [one.name for one in told_apart(sweep)] == [
        "dpo seed 0 (algorithm.beta=0.1)",
        "dpo seed 0 (algorithm.beta=0.2)",
        "dpo seed 1",
    ]


def test_others_keep_their_names() -> None:
    sweep = [job(0, 0, "model=tiny"), job(1, 1, "model=tiny")]
    assert [one.name for one in told_apart(sweep)] == ["dpo seed 0", "dpo seed 1"]
    assert told_apart([job(0, 0)]) == [job(0, 0)]
    assert told_apart([]) == []


def trial(number: int, *overrides: str) -> SweepTrial:
    given = (*overrides, f"seed={number}")
    return sweep_trial(compose(given), given, Path("runs/s") / f"a-s{number}-00000000")


def test_what_several_trials_share_comes_first_and_once_each() -> None:
    sweep = [trial(0), trial(1), trial(2, "feedback=ai"), trial(3, "feedback=ai"), trial(4, "model=tiny")]
    starts, feedback = shared_waves(sweep)
    # All but the last have one start; that one shares nothing and makes its own.
    assert [one.overrides for one in starts] == [(*sweep[0].job.overrides, "until=candidates")]
    assert [one.overrides for one in feedback] == [
        (*sweep[0].job.overrides, "until=reward_model"),
        (*sweep[2].job.overrides, "until=reward_model"),
    ]
    assert {one.seed for one in (*starts, *feedback)} == {None}
    assert len({one.folder for one in (*starts, *feedback)}) == 3


def test_seeds_that_repeat_the_pipeline_share_nothing() -> None:
    assert shared_waves([trial(0, "replicate=pipeline"), trial(1, "replicate=pipeline")]) == [[], []]
    assert shared_waves([trial(0, "until=policy"), trial(1, "until=policy")]) == [[], []]
    assert shared_waves([]) == [[], []]
