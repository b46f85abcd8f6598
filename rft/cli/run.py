"""``rft run``: Hydra's application, checked before anything heavy is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rft.config import compose, expand_sweep, register
from rft.config.build import target_class
from rft.config.compose import check
from rft.config.launchers import GROUP, Launch, Local, launching
from rft.config.options import GROUPS, SECOND
from rft.config.overrides import with_nobody
from rft.config.paths import conf_dir
from rft.config.plugins import is_ours
from rft.errors import UserError
from rft.study import identity
from rft.study.parts import refuse_misfits

LAUNCHER = (f"{GROUP}=", "hydra.launcher.")
"""Beginnings of the overrides of Hydra's own settings that are checked as ours are."""

Found = tuple[DictConfig, Path, list[str]]
"""A trial: its configuration, folder and overrides."""


def _precheck(overrides: Sequence[str], *, sweep: bool) -> None:
    """Refuse a bad configuration in one line before Hydra starts a job, every run of a sweep included."""
    own = [o for o in overrides if not o.lstrip("+~").startswith("hydra") or o.startswith(LAUNCHER)]
    for one in expand_sweep(own) if sweep else [own]:
        cfg = compose(one)
        refuse_misfits(cfg)
        if cfg.sweep.get("trials"):
            raise UserError("sweep: tunes the arms of a study, not one trial: rft compare STUDY sweep=fair_tuning")


def _import_plugins(cfg: DictConfig) -> None:
    """Import the plugins that a run uses: one that cannot be is refused now, not after the stages before it."""
    for group in (*GROUPS, *(place for place in SECOND if cfg[place] is not None)):
        if not is_ours(str(cfg[group]["_target_"])):
            target_class(cfg[group])


def hydra_run(arguments: Sequence[str]) -> None:
    """Compose by Hydra (flags, tab completion, multirun), then run the trial in this process.

    The trial runs after Hydra has ended, so that Lightning's DDP starts its child as the same plain command. In a
    sweep each trial is a process of its own: one that fails ends alone.

    Raises:
        UserError: for whatever is wrong with the overrides, or if trials of a sweep failed.
    """
    arguments = with_nobody(arguments)
    flags = get_args_parser().parse_args(list(arguments))
    if not (flags.hydra_help or flags.info or flags.shell_completion):
        _precheck(flags.overrides, sweep=flags.multirun)
    register()
    identity.register()
    found: list[Found] = []
    faults: list[UserError] = []
    launched = sweeps = False

    def task(cfg: DictConfig) -> Found:
        cfg.arm = str(cfg.arm)  # its default needs Hydra's overrides, which are gone when the trial runs
        hydra = HydraConfig.get()
        overrides = list(hydra.overrides.task)
        folder = Path(hydra.runtime.output_dir)
        nonlocal sweeps
        sweeps = hydra.mode is RunMode.MULTIRUN
        found.append((check(cfg, overrides), folder, overrides))
        return found[-1]

    def launch_sweep(trials: Sequence[Found], settings: Launch) -> None:
        nonlocal launched
        launched = True
        try:
            _run_sweep(trials, settings)
        except UserError as error:  # through Hydra it would come out as a traceback
            faults.append(error)

    argv = sys.argv
    sys.argv = ["rft", *arguments]
    try:
        with launching(launch_sweep):
            hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    if sweeps:
        if not launched:  # Hydra's own launcher has composed them
            launch_sweep(found, Local())
        if faults:
            raise UserError("; ".join(map(str, faults)))  # of several batches, if the sweeper makes some
        return
    for one in found:
        _run_here(*one)


def _run_here(cfg: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Run a trial in this process."""
    from rft.runtime import prepare_process

    prepare_process()
    from rft.study.single import in_ledger
    from rft.study.trial import run_trial

    with in_ledger(cfg, folder, overrides):
        _import_plugins(cfg)
        run_trial(cfg, folder, overrides)


def _run_sweep(found: Sequence[Found], settings: Launch) -> None:
    """Run the trials of a sweep as its launcher is set.

    Raises:
        UserError: naming those that failed.
    """
    from rft.study.sweep import run_sweep, sweep_job

    if failed := run_sweep([sweep_job(cfg, overrides, folder) for cfg, folder, overrides in found], settings):
        raise UserError(
            f"{len(failed)} trials of the sweep did not end well: {', '.join(failed)}; see above what they printed, "
            "and their trial.json; rft retry starts those that failed again, rft resume the others"
        )
