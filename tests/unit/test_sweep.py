"""The trials of a sweep as people are told of them."""

from __future__ import annotations

from pathlib import Path

from rft.study.jobs import Job
from rft.study.sweep import told_apart


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
