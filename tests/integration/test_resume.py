"""A trial that was killed goes on from its last checkpoint and ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rft.callbacks.trackers.base import Tracker
from rft.checkpoint import kept
from rft.checkpoint import load as load_checkpoint
from rft.config import compose
from rft.config.build import target_class
from rft.store.entry import load
from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import (
    LORA,
    OF,
    REVISED,
    TINY,
    Result,
    Warm,
    environment,
    rft,
    tracked,
    trial_folder,
    using,
    wait_until,
)
from tests.integration.trained import train

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

# Long enough for a kill between the first checkpoint and the end.
LONG = {
    "ppo": ("algorithm=ppo", "algorithm.iterations=16", "algorithm.minibatches=2", "algorithm.epochs=2"),
    "dpo": ("algorithm=dpo", "algorithm.pairs_per_step=2", "algorithm.epochs=8"),
    "kto": ("algorithm=kto", "algorithm.pairs_per_step=2", "algorithm.epochs=8"),
    "online_dpo": ("algorithm=online_dpo", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
}
# These go on as one above does.
MORE = {
    "grpo": ("algorithm=grpo", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
    "rloo": ("algorithm=rloo", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
    "reinforce_pp": ("algorithm=reinforce_pp", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
    "rlaif": ("algorithm=rlaif", "algorithm.iterations=16", "algorithm.minibatches=2", "algorithm.epochs=2"),
    "online_feedback": ("algorithm=online_feedback", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
    "orpo": ("algorithm=orpo", "algorithm.pairs_per_step=2", "algorithm.epochs=8"),
    "simpo": ("algorithm=simpo", "algorithm.pairs_per_step=2", "algorithm.epochs=8"),
    "rlaif_online": ("algorithm=rlaif_online", "algorithm.iterations=16", "algorithm.prompts_per_iteration=8"),
    "rlaif_direct": ("algorithm=rlaif_direct", "algorithm.iterations=16", "algorithm.minibatches=2"),
    "rlaif_dpo": ("algorithm=rlaif_dpo", "algorithm.pairs_per_step=2", "algorithm.epochs=8"),
    "raft": ("algorithm=raft", "algorithm.iterations=16"),
    "constitutional": ("algorithm=constitutional", *REVISED, "algorithm.iterations=16", "algorithm.minibatches=2"),
}
# Stops in the twelfth of sixteen iterations, a minibatch into it.
LIMITED = ("budget.prompts=370", "evaluation.checkpoints=2")


def clock(result: Result) -> list[dict[str, float]]:
    """When each row of a history was made: no two trainings have the same times."""
    found: list[dict[str, float]] = result.cost("policy")["clock"]
    return found


def trained_steps(run: list[dict[str, Any]]) -> list[float]:
    """The steps at which a tracked run has metrics of its training."""
    rows = [record["history"] for record in run if record["type"] == "history"]
    return [row["item"]["_step"] for row in rows if "train/loss" in row["item"]]


CASES = {name: (name, ()) for name in (*LONG, *MORE)} | {"ppo-adapters": ("ppo", LORA), "ppo-limited": ("ppo", LIMITED)}


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (name != "ppo-adapters"), id=name) for name, case in CASES.items()],
)
def test_killed_in_the_middle_ends_with_the_same_bits(
    algorithm: str, settings: tuple[str, ...], adapted: Path, warm: Warm, tmp_path: Path
) -> None:
    command = ["run", *(LONG | MORE)[algorithm], "arm=long", *TINY, *settings]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert warm(command, whole, adapted).code == 0
    reference = Result(trial_folder(whole, "long"), adapted)

    shared = without_policies(adapted, tmp_path / "store")
    process = warm.start(command, killed, shared)
    wait_until(lambda: list(killed.glob("runs/scratch/*/checkpoints/*/step-*.ckpt")))
    folder = trial_folder(killed, "long")
    os.kill(process, signal.SIGKILL)
    assert warm.wait().code == -signal.SIGKILL
    assert not (shared / "policy").exists() or not list((shared / "policy").iterdir())
    assert not (folder / "trial.json").exists()
    (checkpoints,) = (folder / "checkpoints").iterdir()
    before = json.loads(load_checkpoint(kept(checkpoints)[0].path)["callbacks"]["History"]["clock"])

    outcome = warm(command, killed, shared)
    assert outcome.code == 0, outcome.stderr
    again = Result(folder, shared)
    assert again.record["stages"]["policy"]["key"] == reference.record["stages"]["policy"]["key"]
    for name in ("policy.safetensors", "history.json"):
        assert (again.entry("policy") / name).read_bytes() == (reference.entry("policy") / name).read_bytes()
    assert again.digests == reference.digests

    # It went on, it did not begin again: the first rows were made by the process that was killed.
    assert 0 < len(before) < len(reference.history())
    assert clock(again)[: len(before)] == before
    # The second process hands over all of them, since the first may have lost some.
    parts = tracked(folder)  # the first process may have been killed before its run began
    assert trained_steps(parts[-1]) == [row["step"] for row in reference.history()]
    # And W&B gets it as one run.
    assert len({r["run"]["run_id"] for part in parts for r in part if r["type"] == "run"}) == 1


class Rows(Tracker):
    """Keeps the rows that it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, row: Mapping[str, float], step: int) -> None:
        """A row more."""
        self.rows.append((step, dict(row)))


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_killed_after_its_last_checkpoint_it_hands_over_its_rows(algorithm: str, sweep: Sweep, tmp_path: Path) -> None:
    # Nothing is left to train then, and the policy is not in the store yet: as if it had been killed in between.
    cfg = compose([*OF[algorithm], *TINY])
    trial = sweep.trials[algorithm]
    policy: Any = load("policy", trial.entry("policy"))
    inputs: Any = {stage: load(stage, trial.entry(stage)) for stage in policy.inputs}
    told = []
    for _ in range(2):
        tracker = Rows()
        train(target_class(cfg.algorithm), cfg, inputs, tmp_path, tracker)
        told.append(tracker.rows)
    assert len(told[0]) == len({step for step, _ in told[0]}) > 1
    assert told[1] == told[0]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_two_processes_killed_in_the_middle_end_with_the_same_bits(
    algorithm: str, adapted: Path, tmp_path: Path
) -> None:
    command = ["run", *LONG[algorithm], "arm=long", *TINY, "strategy=ddp", "tracker=none"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert rft(command, whole, without_policies(adapted, tmp_path / "first")).code == 0
    reference = Result(trial_folder(whole, "long"), tmp_path / "first")
    store = without_policies(adapted, tmp_path / "store")
    process = subprocess.Popen([sys.executable, "-m", "rft", *command], cwd=killed, env=environment(store))
    wait_until(lambda: list(killed.glob("runs/scratch/*/checkpoints/*/step-*.ckpt")), 240)
    process.kill()
    process.wait()
    wait_until(lambda: not using(store))
    assert rft(command, killed, store).code == 0
    again = Result(trial_folder(killed, "long"), store)
    for name in ("policy.safetensors", "history.json"):
        assert (again.entry("policy") / name).read_bytes() == (reference.entry("policy") / name).read_bytes()
    assert again.digests == reference.digests
    assert len({row["seconds"] for row in clock(again)}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_paused_at_a_share_goes_on_and_ends_with_the_same_bits(
    algorithm: str, adapted: Path, warm: Warm, tmp_path: Path
) -> None:
    command = ["run", *LONG[algorithm], "arm=long", *TINY]
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    whole.mkdir()
    paused.mkdir()
    assert warm(command, whole, adapted).code == 0
    reference = Result(trial_folder(whole, "long"), adapted)
    everything = reference.history()

    shared = without_policies(adapted, tmp_path / "store")
    partial = {}
    # 0.25 comes again when its result is lost and a checkpoint of half the training is there, which must not stand in.
    for share in ("0.25", "0.5", "0.25"):
        assert warm([*command, f"budget.share={share}"], paused, shared).code == 0
        result = Result(trial_folder(paused, "long"), shared)
        rows = result.history()
        assert 0 < len(rows) < len(everything)
        assert rows == everything[: len(rows)]
        assert partial.setdefault(share, result.digests["policy"]) == result.digests["policy"]
        shutil.rmtree(result.entry("policy"))
    assert len(set(partial.values())) == 2
    assert warm([*command, "budget.share=0.5"], paused, shared).code == 0
    half = clock(result)

    assert warm(command, paused, shared).code == 0
    for name in ("policy.safetensors", "history.json"):
        assert (result.entry("policy") / name).read_bytes() == (reference.entry("policy") / name).read_bytes()
    assert result.digests == reference.digests
    assert not list(result.folder.glob("checkpoints/*/*"))
    assert 0 < len(half) < len(everything)
    assert clock(result)[: len(half)] == half
    runs = tracked(result.folder)
    assert trained_steps(runs[-1]) == [row["step"] for row in everything]
    assert len({record["run"]["run_id"] for run in runs for record in run if record["type"] == "run"}) == 1
