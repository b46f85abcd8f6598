"""Who a trial's tracked run is."""

from __future__ import annotations

import secrets
from pathlib import Path

from omegaconf import DictConfig

from rft.callbacks.trackers.base import Run
from rft.config.options import option_like
from rft.machine import made_here
from rft.secrets import without_secrets
from rft.store.whole import write_whole
from rft.study.parts import plain
from rft.study.versions import versions

TRACKED = ".tracked"
"""In a trial's folder while its tracked run is not at its end: the run's id, and the versions of what computed it."""
TAGGED = ("algorithm", "model", "task", "feedback", "reward")


def run_of(cfg: DictConfig, folder: Path) -> Run:
    """The run of a trial, which is that of the process before if one was killed: one trial is one run.

    Args:
        cfg: the trial's configuration.
        folder: the trial's, where the run's id is kept until its end.
    """
    names = {group: option_like(group, plain(cfg[group])) or "?" for group in TAGGED}
    identity, resumed = _identity(folder)
    return Run(
        id=identity,
        study=str(cfg.study),
        arm=str(cfg.arm),
        model=names["model"],
        seed=int(cfg.seed),
        stage="policy",
        tags=(str(cfg.arm), f"seed-{cfg.seed}", *(f"{group}-{name}" for group, name in names.items())),
        folder=folder.absolute(),
        config=without_secrets(plain(cfg)),
        made=without_secrets(made_here()),
        resumed=resumed,
    )


def _identity(folder: Path) -> tuple[str, bool]:
    """The id of a trial's run, and whether a process before this one has given it.

    Code of other versions computes another policy, of which an earlier run's rows are none.
    """
    file, made_by = folder / TRACKED, versions()
    kept = file.read_text(encoding="utf-8").split() if file.exists() else []
    if kept and kept[1:] in ([made_by], []):
        return kept[0], True
    write_whole(file, f"{(found := secrets.token_hex(4))} {made_by}".encode())
    return found, False
