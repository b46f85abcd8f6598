"""How Lightning is told to spread a training."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from rft.strategy import AcceleratorEnum, DistributionEnum, Strategy
from rft.strategy import Config as StrategyConfig


@pytest.mark.parametrize("job", ["rft", None], ids=["in a job of SLURM", "elsewhere"])
def test_a_training_of_two_processes_is_one_of_two_wherever_it_starts(
    job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if job:
        for name, value in {"JOB_NAME": job, "NTASKS": "1", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
        assert SLURMEnvironment.detect()
    strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, distribution=DistributionEnum.ddp, devices=2))
    trainer = strategy.trainer(epochs=1, root=tmp_path)
    assert (trainer.world_size, trainer.global_rank) == (2, 0)


@pytest.mark.parametrize(
    ("asked", "kept_of_token", "all_weights", "wanted"),
    [
        (0, 30 * 576, False, 4096),
        (0, 30 * 576, True, 1024),
        (0, 10 * 576, False, 12288),  # adapters in the upper ten layers: so much less is kept of a token
        (0, 10**12, False, 1),
        (40, 30 * 576, True, 40),
    ],
)
def test_a_microbatch_holds_what_a_backward_can_keep(
    asked: int, kept_of_token: int, all_weights: bool, wanted: int
) -> None:
    strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, microbatch_tokens=asked))
    assert strategy.microbatch_tokens(kept_of_token, all_weights=all_weights) == wanted


@pytest.mark.parametrize(("all_weights", "wanted"), [(False, 4096), (True, 512)])
def test_what_all_trials_share_goes_by_no_setting_of_theirs(all_weights: bool, wanted: int) -> None:
    strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, microbatch_tokens=40))
    assert strategy.shared_microbatch_tokens(30 * 576, all_weights=all_weights) == wanted
