"""Trackers: where a trial's metrics go besides the store."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.store.whole import write_whole

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


LONGEST_TAG = 64  # W&B refuses longer ones


class ModeEnum(str, Enum):
    """Whether anything is contacted."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class Config:
    """Settings of the W&B tracker."""

    mode: ModeEnum = ModeEnum.offline
    """offline keeps the run beside the trial and contacts nothing; online needs an account."""
    project: str = "rft"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""


class Wandb:
    """Weights & Biases through Lightning's logger: one run a trial, group = study."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._id_file: Path | None = None

    def logger(self, *, study: str, arm: str, seed: int, folder: Path, settings: Mapping[str, Any]) -> Logger | None:
        """Start the trial's run in its folder, or go on with the one of a killed trial; None if tracking is off."""
        if self.config.mode is ModeEnum.disabled:
            return None
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ[name] = str(folder / "wandb" / name.split("_")[1].lower())
        logging.getLogger("wandb").setLevel(logging.ERROR)
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        class SteppedLogger(WandbLogger):
            """Takes the optimiser's steps as W&B's own, so that a run that goes on continues its curves."""

            def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
                """One row."""
                self.experiment.log(dict(metrics) | {"trainer/global_step": step}, step=step)

        offline = self.config.mode is ModeEnum.offline
        # Lightning passes a setting of older versions, of which wandb would warn before its own settings count.
        wandb.setup(wandb.Settings(silent=True, mode="offline" if offline else "online"))
        logger = SteppedLogger(
            id=self._run_id(folder),
            project=self.config.project,
            entity=self.config.entity,
            name=f"{arm} · s{seed}",
            group=study,
            job_type="trial",
            tags=[arm[:LONGEST_TAG], f"seed-{seed}"],
            save_dir=folder,
            offline=offline,
            log_model=False,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=offline),
        )
        logger.log_hyperparams(dict(settings))
        return logger

    def _run_id(self, folder: Path) -> str:
        """The id of the trial's run, kept until the trial is done: one trial is one run, killed or not."""
        self._id_file = folder / "wandb" / "run-id"
        if self._id_file.exists() and (kept := self._id_file.read_text(encoding="utf-8")):
            return kept
        write_whole(self._id_file, (found := secrets.token_hex(4)).encode())
        return found

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Log the last metrics and end the run: without this a second trial in the process would join it."""
        import wandb

        if wandb.run is not None:
            if metrics:
                wandb.log(dict(metrics))
            wandb.finish(exit_code=1 if failed else 0)
        if not failed and self._id_file is not None:
            self._id_file.unlink(missing_ok=True)
