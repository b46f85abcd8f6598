"""Trains a policy in this process, where a test can look at what passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rft.callbacks.trackers.base import Tracker
from rft.config import build, to_config
from rft.models.pretrained import LoraConfig
from rft.strategy import Config as StrategyConfig
from rft.strategy import Strategy
from rft.study.charge import Charge
from rft.study.training import train_policy


def train(
    algorithm: type[Any], cfg: DictConfig, inputs: dict[str, Any], checkpoints: Path, tracker: Tracker | None = None
) -> None:
    """As a trial of a configuration does with seed 0, all weights trained; nothing but checkpoints is kept."""
    train_policy(
        algorithm,
        to_config(cfg.algorithm),
        cfg.reward,
        LoraConfig(enabled=False),
        inputs,
        Strategy(StrategyConfig()),
        response_tokens=int(cfg.task.response_tokens),
        seed=0,
        charge=Charge(build(cfg.budget)),
        snapshots=0,
        checkpoints=checkpoints,
        tracker=tracker,
        out=None,
    )
