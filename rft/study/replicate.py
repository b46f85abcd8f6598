"""What a seed repeats: the policy alone, or the stages before it as well."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

from rft.config.schemas import Replicate

DRAWN = ("candidates", "start", "feedback", "judge", "reward")
"""Nodes whose `seed`, if they have one, decides a draw between the start policy and the training."""


def is_pipeline(cfg: DictConfig) -> bool:
    """Whether the trial's seed draws the shared stages anew too."""
    return Replicate(cfg.replicate) is Replicate.pipeline


def with_own_draws(cfg: DictConfig) -> DictConfig:
    """The configuration that a trial's stages are computed with.

    With `replicate=pipeline` the seeds of candidates, start, labels and reward model are their own plus the trial's:
    arms of one seed share these stages, seeds of one arm do not, and seed 0 shares them with `replicate=policy`.
    """
    if not is_pipeline(cfg):
        return cfg
    drawn = copy.deepcopy(cfg)
    for name in DRAWN:
        if "seed" in drawn[name]:
            OmegaConf.update(drawn, f"{name}.seed", int(drawn[name].seed) + int(drawn.seed))
    return drawn
