"""What ten thousand logged steps cost a trial."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import TINY, Result, rft, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.slow, pytest.mark.xdist_group(__name__), pytest.mark.timeout(3600)]
ROWS = 10_000
# Steps as short as they can be, of which what is told is the largest part.
LONG = (
    "algorithm=ppo",
    f"algorithm.iterations={ROWS}",
    "algorithm.prompts_per_iteration=4",
    "algorithm.epochs=1",
    "algorithm.minibatches=1",
    "evaluation.checkpoints=0",
    "strategy.checkpoint_share=0.05",  # the default, which other tests do without
)


def seconds(tracker: str, core: int, store: Path, cwd: Path) -> float:
    """From start to end of a trial that has one core, with all that it starts."""
    cwd.mkdir()
    os.sched_setaffinity(0, {core})  # of this thread, and of the processes that it starts
    begun = time.monotonic()
    outcome = rft(["run", "arm=long", f"tracker={tracker}", *TINY, *LONG], cwd, store)
    taken = time.monotonic() - begun
    assert (outcome.code, outcome.stderr) == (0, "")
    assert len(Result(trial_folder(cwd, "long"), store).history()) == ROWS
    return taken


def test_ten_thousand_rows_add_less_than_a_twentieth(sweep: Sweep, tmp_path: Path) -> None:
    """To the time from a trial's start to its end; both at once, so that what else the machine does slows both."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs a core for each")
    with ThreadPoolExecutor(2) as pool:
        found = {
            tracker: pool.submit(
                seconds, tracker, core, without_policies(sweep.store, tmp_path / f"store-{tracker}"), tmp_path / tracker
            )
            for tracker, core in zip(("none", "offline"), cores, strict=True)
        }
    none, offline = (found[tracker].result() for tracker in ("none", "offline"))
    print(f"{none:.1f} s without a tracker, {offline:.1f} s with W&B offline: {offline / none:.3f}")
    assert offline < 1.05 * none
