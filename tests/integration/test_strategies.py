"""However a step is spread, over two processes by gloo or over microbatches, it is the same step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Result, Warm, rft, script, trial_folder

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


def command(algorithm: str, arm: str, *strategy: str) -> list[str]:
    return ["run", *OF[algorithm], *strategy, f"arm={arm}", *TINY]


def trial(folder: Path, arm: str, store: Path) -> Result:
    return Result(trial_folder(folder, arm), store)


def assert_same_training(one: Result, other: Result, start: Result) -> None:
    """Weights and metrics of two trials are equal but for rounding, far below what training changed.

    A weight whose gradient is little else than rounding is moved by it, since AdamW divides by the gradient's size.
    """
    import torch
    from safetensors.torch import load_file

    assert one.record["stages"]["policy"]["key"] != other.record["stages"]["policy"]["key"]
    before, trained, twin = (load_file(x.entry("policy") / "policy.safetensors") for x in (start, one, other))
    moved, apart = (
        torch.cat([(trained[name] - other[name]).flatten() for name in before]).double() for other in (before, twin)
    )
    assert apart.norm() < 1e-3 * moved.norm()
    assert apart.abs().max() < 1e-2 * moved.abs().max()
    assert len(one.history()) == len(other.history())
    for row, twin_row in zip(one.history(), other.history(), strict=True):
        # One process learns from the pass that a first microbatch's old log-probs are made with: the larger that is,
        # the less is passed twice; several processes pass all twice.
        spent, twin_spent = row.pop("budget/flops"), twin_row.pop("budget/flops")
        assert spent * 0.999 <= twin_spent <= spent * 1.1
        assert twin_row == pytest.approx(row, rel=1e-3, abs=1e-4)


# KTO's loss knows a number of all rows of the step; the conformance suite has it on two ranks too.
@pytest.mark.parametrize(
    "algorithm", ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpo", "rlaif_online", "kto"))]
)
def test_two_processes_and_two_microbatches_train_what_one_does(
    algorithm: str, sweep: Sweep, warm: Warm, tmp_path: Path
) -> None:
    # Once as `python -m rft` and once as the installed script: the second process is started in the same way.
    start = rft if algorithm == "ppo" else script
    ways = {
        "plain": (warm, "strategy=cpu"),
        "parts": (warm, "strategy.accumulate=2"),
        "tokens": (warm, "strategy.microbatch_tokens=40"),  # two rows of a prompt and a response
        "ddp": (start, "strategy=ddp"),
    }
    for arm, (run, strategy) in ways.items():
        outcome = run(command(algorithm, arm, strategy), tmp_path, sweep.store)
        assert (outcome.code, outcome.stderr) == (0, "")
        assert trial(tmp_path, arm, sweep.store).computed == {"policy", "evaluation"}
    plain, parts, tokens, ddp = (trial(tmp_path, arm, sweep.store) for arm in ways)
    assert_same_training(plain, parts, sweep.trials["sft"])
    assert_same_training(plain, tokens, sweep.trials["sft"])
    assert_same_training(plain, ddp, sweep.trials["sft"])
    # One run a trial: the second process tracks nothing.
    assert len(list(ddp.folder.glob("wandb/offline-run-*"))) == 1


@pytest.mark.slow
def test_two_processes_stop_together_at_a_loss_that_is_no_number(shared: Path, warm: Warm, tmp_path: Path) -> None:
    outcome = warm(command("ppo", "far", "strategy=ddp", "algorithm.lr=1e30"), tmp_path, shared)
    assert "at step " in outcome.error
    assert not list(shared.glob("policy/*"))
    assert trial(tmp_path, "far", shared).record["status"] == "failed"
