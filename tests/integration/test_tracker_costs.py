"""What ten thousand logged steps cost a trial."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import TINY, Result, rft, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.slow, pytest.mark.xdist_group("trials"), pytest.mark.timeout(3600)]
ROWS = 10_000
# Steps as short as they can be, of which what is told is the largest part.
LONG = (
    "algorithm=ppo",
    f"algorithm.iterations={ROWS}",
    "algorithm.prompts_per_iteration=4",
    "algorithm.epochs=1",
    "algorithm.minibatches=1",
    "evaluation.checkpoints=0",
    "strategy.threads=1",
)


def processor() -> float:
    """Seconds that processes which this one started, and those that they started, have used."""
    used = os.times()
    return used.children_user + used.children_system


def test_ten_thousand_rows_add_less_than_a_twentieth(sweep: Sweep, tmp_path: Path) -> None:
    """To the time from a trial's start to its end, and to the processor's, W&B's own process included."""
    used = {}
    for tracker in ("none", "offline"):
        store, cwd = without_policies(sweep.store, tmp_path / f"store-{tracker}"), tmp_path / tracker
        cwd.mkdir()
        begun, before = time.monotonic(), processor()
        outcome = rft(["run", *LONG, "arm=long", f"tracker={tracker}", *TINY], cwd, store)
        used[tracker] = time.monotonic() - begun, processor() - before
        assert (outcome.code, outcome.stderr) == (0, "")
        assert len(Result(trial_folder(cwd, "long"), store).history()) == ROWS
    print({name: f"{of[0]:.1f} s from start to end, {of[1]:.1f} s of processors" for name, of in used.items()})
    assert used["offline"][0] < 1.05 * used["none"][0], used
    assert used["offline"][1] < 1.05 * used["none"][1], used
