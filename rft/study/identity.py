"""What a trial is called: its arm, its seed, and a digest of all settings that decide its results.

A changed setting is another name, so another folder: nothing that was computed is overwritten.
"""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rft.store.canonical import sha256_of
from rft.store.names import trial_name

COSMETIC = frozenset(
    {
        "study",  # where the trial is kept
        "arm",  # what it is called in tables; it stands in the name beside the digest
        "tracker",  # who is told how it goes
        "until",  # how far it is computed: going on is the same trial
        "budget.share",  # how far it is trained for now: the same
        "evaluation.same_judge",  # a permission
    }
)
"""Settings that are not part of what a trial is, by their dotted names."""
DIGITS = 8


def trial_id(cfg: DictConfig) -> str:
    """8 hex digits of the sha256 over the canonical JSON of a run's resolved settings, the cosmetic ones left out.

    A group that is not chosen counts as absent, so that a release with one more group finds the trials of the one
    before.

    Args:
        cfg: a run's configuration, with or without the section ``hydra``.
    """
    kept: dict[str, Any] = {}
    for key in map(str, cfg):
        if key == "hydra" or key in COSMETIC:
            continue
        value = cfg[key]
        if isinstance(value, DictConfig):
            plain: Any = OmegaConf.to_container(value, resolve=True, enum_to_str=True)
            value = {name: one for name, one in plain.items() if f"{key}.{name}" not in COSMETIC}
        elif hasattr(value, "name"):  # an enum
            value = value.name
        if value not in (None, {}):
            kept[key] = value
    # JSON knows no infinity, which is a value that a setting may have.
    return sha256_of(json.loads(json.dumps(kept), parse_constant=str))[:DIGITS]


def name_of(cfg: DictConfig) -> str:
    """The name of the trial with this configuration, which is that of its folder."""
    return trial_name(str(cfg.arm), int(cfg.seed), trial_id(cfg))


def register() -> None:
    """Register the resolver ``rft_trial``, by which ``conf/config.yaml`` names a run's folder; any number of times."""

    def named(*, _root_: DictConfig) -> str:
        return name_of(_root_)

    OmegaConf.register_new_resolver("rft_trial", named, replace=True)
