"""``rft run``: Hydra's application, checked before anything heavy is imported."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from rft.config import compose, expand_sweep, register
from rft.config.build import target_class
from rft.config.compose import check
from rft.config.launchers import Launch, Local, launching
from rft.config.limits import refuse_secrets
from rft.config.options import GROUPS, SECOND
from rft.config.overrides import with_nobody
from rft.config.paths import conf_dir
from rft.config.plugins import is_ours
from rft.config.where import is_where
from rft.errors import UserError
from rft.models.located import local_folder
from rft.runtime import asked_threads
from rft.study import identity
from rft.study.parts import refuse_misfits

if TYPE_CHECKING:
    from rft.study.sweep import SweepTrial

Found = tuple[DictConfig, Path, list[str]]
"""A trial: its configuration, folder and overrides."""


def _precheck(overrides: Sequence[str], *, sweep: bool, shows: bool = False) -> None:
    """Refuse a bad configuration in one line before Hydra starts a job, every run of a sweep included.

    Args:
        overrides: as given.
        sweep: whether they are of several runs.
        shows: whether the configuration is only shown, and nothing runs.

    Raises:
        UserError: for a configuration that does not fit, or a folder that takes no trials.
    """
    if sweep and shows:
        raise UserError("--cfg: shows the configuration of one run; leave -m out, or give each setting one value")
    own = [o for o in overrides if not o.lstrip("+~").startswith("hydra") or is_where(o)]
    _refuse_secrets([o for o in overrides if o not in own])
    # Of runs that differ in their seed alone one tells for all: a thousand would take minutes.
    for one in {_but_seed(one): one for one in expand_sweep(own)}.values() if sweep else [own]:
        cfg = compose(one)
        refuse_misfits(cfg)
        if cfg.sweep.get("trials"):
            raise UserError("sweep: tunes the arms of a study, not one trial: rft compare STUDY sweep=fair_tuning")
    if not shows:
        _require_writable(overrides)
        asked_threads()
        if not sweep and cfg.model.get("path"):
            local_folder(str(cfg.model.path), "model")


def _refuse_secrets(overrides: Sequence[str]) -> None:
    """Refuse a key or a password among Hydra's own settings, such as hydra.job.env_set, which Hydra writes to a file.

    Raises:
        UserError: naming the setting, and not its value.
    """
    parser = OverridesParser.create()
    for one in overrides:
        with suppress(HydraException):  # which Hydra tells
            found = parser.parse_override(one)
            plain = isinstance(value := found.value(), str | dict | list)
            refuse_secrets({found.key_or_group: value if plain else one})


def _require_writable(overrides: Sequence[str]) -> None:
    """Refuse a folder that takes no trials, which Hydra would tell by a traceback.

    Raises:
        UserError: naming it.
    """
    if any(one.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for one in overrides):
        return
    runs = Path("runs").absolute()
    place = runs if runs.exists() else runs.parent
    if not os.access(place, os.W_OK):
        only_read = os.statvfs(place).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if only_read else errno.EACCES)
        raise UserError(f"{place} cannot be written: {reason}; make it writable, or start from another folder")


def _but_seed(overrides: Sequence[str]) -> tuple[str, ...]:
    """A run's overrides with one seed for all that are sure to be allowed."""
    return tuple(re.sub(r"^seed=\d{1,9}$", "seed=0", one) for one in overrides)


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
        _precheck(flags.overrides, sweep=flags.multirun, shows=bool(flags.cfg))
    register()
    identity.register()
    found: list[Found] = []
    trials: list[SweepTrial] = []
    faults: list[UserError] = []
    launched = sweeps = False

    def task(cfg: DictConfig) -> Found | SweepTrial:
        cfg.arm = str(cfg.arm)  # its default needs Hydra's overrides, which are gone when the trial runs
        hydra = HydraConfig.get()
        overrides, folder = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
        nonlocal sweeps
        sweeps = hydra.mode is RunMode.MULTIRUN
        checked = check(cfg, overrides)
        if sweeps:  # a thousand wait for their turn, and a configuration is large
            from rft.study.sweep import sweep_trial

            trials.append(sweep_trial(checked, overrides, folder))
            return trials[-1]
        found.append((checked, folder, overrides))
        return found[-1]

    def launch_sweep(trials: Sequence[SweepTrial], settings: Launch) -> None:
        nonlocal launched
        launched = True
        try:
            _run_sweep(trials, settings, [one for one in flags.overrides if is_where(one)])
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
            launch_sweep(trials, Local())
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
    from rft.study.trial import ending_when_asked, run_trial

    with ending_when_asked(), in_ledger(cfg, folder, overrides):
        _import_plugins(cfg)
        run_trial(cfg, folder, overrides)


def _run_sweep(trials: Sequence[SweepTrial], settings: Launch, placing: Sequence[str]) -> None:
    """Run the trials of a sweep as its launcher is set, by overrides that are kept.

    Raises:
        UserError: naming those that failed.
    """
    from rft.study.sweep import run_sweep

    if failed := run_sweep(trials, settings, placing):
        raise UserError(
            f"{len(failed)} trials of the sweep did not end well: {', '.join(failed)}; see above what they printed, "
            "and their trial.json; rft retry starts those that failed again, rft resume the others"
        )
