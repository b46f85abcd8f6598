"""A study whose launcher is killed is resumed: what is done is not done again, what is changed is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rft.study.ledger import Ledger
from tests.integration.harness import OF, TINY, environment, rft, study, trial_folder, wait_until

pytestmark = pytest.mark.assets


def test_a_killed_study_is_resumed_and_a_changed_one_refused(shared: Path, tmp_path: Path) -> None:
    arms = {"sft": OF["sft"], "long": [*OF["ppo"], "algorithm.iterations=20"]}
    where = study(tmp_path / "small", arms=arms, jobs=1)
    command = [sys.executable, "-m", "rft", "compare", str(where)]
    silent = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=tmp_path, env=environment(shared), stdout=silent, stderr=silent)
    runs = tmp_path / "runs" / "small"
    wait_until(lambda: list(runs.glob("long-s0-*/checkpoints/*/step-*.ckpt")), 240)
    started.kill()
    started.wait()
    wait_until(lambda: [row.state.value for row in Ledger(runs).rows() if row.is_trial] == ["done", "interrupted"])
    record = (trial_folder(tmp_path, "sft", study="small") / "trial.json").read_bytes()

    study(where, arms=arms, seeds=[0, 1])
    refused = rft(["resume", "small"], tmp_path, shared).error
    assert "seeds was [0] and is [0, 1]; run it as it is now with rft compare" in refused
    study(where, arms=arms, jobs=1)

    outcome = rft(["resume", "small"], tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    assert "trials: 2 done" in outcome.stderr
    found = json.loads(rft(["status", "small", "--json"], tmp_path, shared).stdout)
    assert [(row["arm"], row["state"], row["attempts"]) for row in found] == [("sft", "done", 1), ("long", "done", 2)]
    assert (trial_folder(tmp_path, "sft", study="small") / "trial.json").read_bytes() == record


def test_a_sweep_goes_on_past_a_failure_which_is_retried(shared: Path, tmp_path: Path) -> None:
    far = "algorithm.lr=5e-4,1e30"
    command = ["run", "-m", *OF["dpo"], far, "study=far", "tracker=none", *TINY]
    outcome = rft(command, tmp_path, shared)
    assert outcome.code == 2
    assert "1 trials of the sweep did not end well: " in outcome.stderr.splitlines()[-1]
    assert "trials: 1 done, 1 failed" in outcome.stderr
    (bad,) = [row for row in Ledger(tmp_path / "runs" / "far").rows() if row.state.value == "failed"]
    assert "at step" in (bad.error or "")
    assert "nothing to start" in rft(["resume", "far"], tmp_path, shared).stderr
    again = rft(["retry", "far"], tmp_path, shared)
    assert again.code == 2
    rows = {row.state.value: row.attempts for row in Ledger(tmp_path / "runs" / "far").rows()}
    assert rows == {"done": 1, "failed": 2}
