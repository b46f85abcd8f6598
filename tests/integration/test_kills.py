"""A trial that is killed at any moment, again and again, ends with the same bits as one that was left alone."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import TINY, Warm
from tests.integration.kills import SHARED, Trial, assert_same, assert_tracked, only_assets

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

ON_POLICY = ("algorithm.prompts_per_iteration=8", "algorithm.minibatches=2")
# An adaptive KL coefficient, and a limit on tokens that never ends it but must be metered all the same.
ALGORITHMS = {
    "ppo": ("algorithm=ppo", *ON_POLICY, "algorithm.epochs=2", "algorithm.kl_target=0.01", "budget.trained_tokens=1e6"),
    "dpo": ("algorithm=dpo", "algorithm.pairs_per_step=2"),
    "grpo": ("algorithm=grpo", *ON_POLICY),
    "rlaif": ("algorithm=rlaif", *ON_POLICY, "algorithm.epochs=2"),
}
SEED = 20261128
RUNS = int(os.environ.get("KILLS", "100"))
AGAIN = 0.3  # chance that a run that goes on is killed too
AFTER = 0.1  # seconds from a checkpoint to a kill, on average
FROM_NOTHING = 3  # of so many runs one computes the shared stages as well


def epochs(algorithm: str, rounds: int) -> int:
    """Lightning epochs, each of which leaves a checkpoint."""
    return rounds // 2 + 1 if algorithm == "dpo" else rounds


def command(algorithm: str, rounds: int) -> list[str]:
    """Of so many iterations; from labelled pairs, of as many Lightning epochs or a little more."""
    length = f"algorithm.{'epochs' if algorithm == 'dpo' else 'iterations'}={epochs(algorithm, rounds)}"
    return ["run", *ALGORITHMS[algorithm], length, *TINY, "arm=killed", "evaluation.checkpoints=2"]


@dataclass
class Whole:
    """A run that was left alone."""

    trial: Trial
    seconds: float
    shared_seconds: float
    """Of them, those that its shared stages took."""

    @classmethod
    def run(cls, trial: Trial, warm: Warm) -> Whole:
        warm.start(trial.command, trial.cwd, trial.store)
        begun = time.monotonic()  # the first of all processes waits until it can be forked
        outcome = warm.wait()
        assert outcome.code == 0, outcome.stderr
        seconds, result = time.monotonic() - begun, trial.result
        return cls(trial, seconds, sum(result.seconds(stage) for stage in result.computed & SHARED))


def killed_until_it_ends(
    trial: Trial, warm: Warm, rng: np.random.Generator, life: float, kills: int, most: int
) -> list[str]:
    """Kill a run at least once; returns what it was at each time.

    One time of two at a moment anywhere in its life, else a little after its training has written a checkpoint, of at
    `most` so many: on the tiny model most of a life is start-up.
    """
    found: list[str] = []
    while len(found) < kills or rng.random() < AGAIN:
        if rng.random() < 0.5:
            moment = trial.killed(warm, float(rng.random()) * life)
        else:
            moment = trial.killed(warm, float(rng.exponential(AFTER)), written=int(rng.integers(1, most)))
        if moment is None:
            break
        found.append(moment)
        life = max(0.7 * life, 1.0)  # less is left to do
    outcome = warm(trial.command, trial.cwd, trial.store)
    assert outcome.code == 0, outcome.stderr
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_killed_at_random_moments(algorithm: str, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    def trial(name: str) -> Trial:
        return Trial(command(algorithm, 3), tmp_path / name, without_policies(sweep.store, tmp_path / name / "store"))

    rng = np.random.default_rng([SEED, list(ALGORITHMS).index(algorithm)])
    whole = Whole.run(trial("whole"), warm)
    killed = trial("killed")
    assert killed_until_it_ends(killed, warm, rng, whole.seconds, kills=2, most=epochs(algorithm, 3))
    assert_same(killed.result, whole.trial.result)
    assert_tracked(killed.result, whole.trial.result)


@pytest.fixture(scope="module")
def hits() -> Iterator[Counter[str]]:
    """What was hit, told at the end."""
    counted: Counter[str] = Counter()
    yield counted
    sys.stdout.write(f"\n{counted.total()} kills:\n")
    for name, count in sorted(counted.items()):
        sys.stdout.write(f"  {count:4d}  {name}\n")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_hundred_killed_runs(algorithm: str, assets: Path, warm: Warm, tmp_path: Path, hits: Counter[str]) -> None:
    whole = Whole.run(Trial(command(algorithm, 6), tmp_path / "whole", only_assets(assets, tmp_path / "store")), warm)
    reference = whole.trial.result
    for number in range(RUNS // len(ALGORITHMS)):
        rng = np.random.default_rng([SEED, list(ALGORITHMS).index(algorithm), number])
        cwd, found = tmp_path / str(number), list[str]()
        while not found:  # one that had ended before it was to be killed does not count
            shutil.rmtree(cwd, ignore_errors=True)
            anew = number % FROM_NOTHING == 0
            make = only_assets if anew else without_policies
            killed = Trial(whole.trial.command, cwd, make(assets if anew else whole.trial.store, cwd / "store"))
            life = whole.seconds if anew else whole.seconds - whole.shared_seconds
            found = killed_until_it_ends(killed, warm, rng, life, kills=1, most=epochs(algorithm, 6))
        sys.stdout.write(f"{algorithm} {number}: killed {len(found)} times: {'; '.join(found)}\n")
        hits.update(found)
        assert_same(killed.result, reference)
        assert_tracked(killed.result, reference)
        shutil.rmtree(cwd)
