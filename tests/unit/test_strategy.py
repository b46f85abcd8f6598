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
