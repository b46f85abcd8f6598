"""What of a trial's stages others may share, and how far a job goes that makes it first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rft.store.canonical import sha256_of
from rft.study.replicate import is_pipeline

_START = ("task", "model", "sft", "candidates", "strategy")
WAVES: Mapping[str, tuple[str, ...]] = {
    "candidates": _START,
    "reward_model": (*_START, "start", "feedback", "judge", "reward", "audit"),
}
"""By the last stage of a wave, in their order: the groups that decide its results."""


def plain_node(node: DictConfig) -> dict[str, Any]:
    """A config node as plain data."""
    found = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return found  # type: ignore[return-value]


def shares(cfg: DictConfig, seed: int | None) -> dict[str, str]:
    """By the last stage of each wave, what is the same for all trials that share it: 64 hex digits.

    Args:
        cfg: a trial's configuration.
        seed: its seed, which counts where a seed repeats the whole pipeline.
    """
    own = seed if is_pipeline(cfg) else None
    return {
        until: sha256_of(json.dumps([own, *(plain_node(cfg[group]) for group in groups)]))
        for until, groups in WAVES.items()
    }
