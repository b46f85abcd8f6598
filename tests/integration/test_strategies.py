"""Two processes over gloo train what one process does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Result, Warm, rft

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("trials")]


@pytest.mark.slow
def test_two_processes_stop_together_at_a_loss_that_is_no_number(shared: Path, warm: Warm, tmp_path: Path) -> None:
    command = ["run", *OF["ppo"], "algorithm.lr=1e30", "strategy=ddp", "arm=far", *TINY]
    assert "at step " in warm(command, tmp_path, shared).error
    assert not list(shared.glob("policy/*"))
    assert Result(tmp_path / "runs" / "scratch" / "far" / "seed-0", shared).record["status"] == "failed"


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_two_processes_train_what_one_does(algorithm: str, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    def trial(strategy: str) -> Result:
        return Result(tmp_path / "runs" / "scratch" / strategy / "seed-0", sweep.store)

    def command(strategy: str) -> list[str]:
        return ["run", *OF[algorithm], f"strategy={strategy}", f"arm={strategy}", *TINY]

    assert warm(command("cpu"), tmp_path, sweep.store).code == 0
    # Once as `python -m rft` and once as the installed script: the second process is started in the same way.
    start = rft if algorithm == "ppo" else warm
    outcome = start(command("ddp"), tmp_path, sweep.store)
    assert outcome.code == 0, outcome.stderr
    one, two = trial("cpu"), trial("ddp")
    assert two.record["status"] == "done"
    assert two.computed == {"policy", "evaluation"}
    assert one.record["stages"]["policy"]["key"] != two.record["stages"]["policy"]["key"]

    before = load_file(sweep.trials["sft"].entry("policy") / "policy.safetensors")
    trained, other = (load_file(x.entry("policy") / "policy.safetensors") for x in (one, two))
    moved = max(float((trained[name] - before[name]).abs().max()) for name in before)
    apart = max(float((trained[name] - other[name]).abs().max()) for name in before)
    assert apart < 1e-3 * moved
    assert len(one.history()) == len(two.history())
    for row, twin in zip(one.history(), two.history(), strict=True):
        assert set(row) == set(twin)
        torch.testing.assert_close(
            torch.tensor([row[k] for k in sorted(row)]),
            torch.tensor([twin[k] for k in sorted(row)]),
            rtol=1e-3,
            atol=1e-4,
        )
    # One run a trial: the second process tracks nothing.
    assert len(list(two.folder.glob("wandb/offline-run-*"))) == 1
