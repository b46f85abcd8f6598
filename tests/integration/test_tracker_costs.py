"""What ten thousand logged steps cost a trial."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import TINY, Result, Warm, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.slow, pytest.mark.xdist_group("trials"), pytest.mark.timeout(3600)]
ROWS = 10_000
LONG = (
    "algorithm=ppo",
    f"algorithm.iterations={ROWS}",
    "algorithm.prompts_per_iteration=8",
    "evaluation.checkpoints=0",
)


def test_ten_thousand_rows_add_less_than_a_twentieth(sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    """In processor seconds of the trial's process; those of the clock, printed, are what else the machine does too."""
    used = {}
    for tracker in ("none", "offline"):  # two seeds: the second would find what the first has computed
        command = ["run", *LONG, f"seed={len(used)}", f"arm={tracker}", f"tracker={tracker}", *TINY]
        begun = time.monotonic()
        outcome = warm(command, tmp_path, sweep.store)
        taken = time.monotonic() - begun
        assert (outcome.code, outcome.stderr) == (0, "")
        trial = Result(trial_folder(tmp_path, tracker, len(used)), sweep.store)
        assert len(trial.history()) == ROWS
        used[tracker] = float(trial.cost("policy")["device_seconds"]), taken
    print({name: f"{of[0]:.1f} s of training, {of[1]:.1f} s from start to end" for name, of in used.items()})
    assert used["offline"][0] < 1.05 * used["none"][0], used
