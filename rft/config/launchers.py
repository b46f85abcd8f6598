"""Hydra's launcher for sweeps, ``hydra/launcher=local|ray|submitit``: composes the trials, then hands over all at once.

Hydra takes launchers from the package ``hydra_plugins`` alone. A file there would be found by every other application
of the environment too; these are put there by :func:`rft.config.register`, in this process only, and are rft's alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from rft.config.limits import check_ranges
from rft.config.ranges import number
from rft.errors import UserError
from rft.progress import track

FEW = 20
"""Trials of a sweep that are composed in a moment: more get a bar."""
GROUP = "hydra/launcher"
PREFIX = "hydra.launcher."
"""Beginning of its settings."""
PACKAGE, MODULE = "hydra_plugins", "hydra_plugins.rft"
"""Where Hydra finds them; it instantiates no others."""


@dataclass
class Launch:
    """What launchers of every kind have in common: what each trial of a sweep takes, and how many run at once."""

    executor: ClassVar[str]
    """Module and class of `rft.study.executors` that starts the trials."""
    _target_: str = ""
    """The launcher, for Hydra."""
    jobs: int = number(0, at_least=0)
    """Trials at once; 0: as many as fit, by cores, memory and GPUs."""
    cores: int = number(0, at_least=0)
    """Of a trial, and its threads over all its processes; 0: those of `strategy.threads`, else its share of the
    machine: of `jobs` parts, or of one a GPU that it takes, or of one a core but at most 4."""
    memory_gb: float = number(0.0, at_least=0)
    """Of a trial, in 2³⁰ bytes; 0: not counted."""
    gpus: float | None = None
    """Of a trial: a fraction of one, or a whole number. Null: one a process if it computes on GPUs, else none."""


@dataclass
class Local(Launch):
    """Processes of this machine."""

    executor: ClassVar[str] = "rft.study.executors.local.LocalExecutor"
    _target_: str = f"{MODULE}.LocalLauncher"


@dataclass
class Ray(Launch):
    """Tasks of a Ray cluster; extra `rft[ray]`."""

    executor: ClassVar[str] = "rft.study.executors.ray.RayExecutor"
    _target_: str = f"{MODULE}.RayLauncher"
    address: str | None = None
    """Of a running cluster, as `auto` or `ray://host:10001`; null: one on this machine that ends with the sweep."""
    cluster_cores: int = number(0, at_least=0)
    """Of one that is started here; 0: all that there are."""
    cluster_gpus: int | None = None
    """Of one that is started here; null: those that there are. More than there are are pretended."""


class Cluster(str, Enum):
    """Who runs the jobs of submitit."""

    slurm = "slurm"
    local = "local"


@dataclass
class Submitit(Launch):
    """Jobs of SLURM, one a trial; extra `rft[slurm]`."""

    executor: ClassVar[str] = "rft.study.executors.submitit.SubmititExecutor"
    _target_: str = f"{MODULE}.SubmititLauncher"
    cluster: Cluster = Cluster.slurm
    """slurm, or local: the same on this machine, to try a sweep out."""
    partition: str | None = None
    """As sbatch has it; so the next three."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that a node must have."""
    minutes: int = number(1440, at_least=1)
    """Limit of a trial's time."""
    warn_seconds: int = number(120, at_least=10)
    """Before that limit, the trial is told to keep its checkpoint and end."""
    shell: list[str] = field(default_factory=list)
    """Lines of shell before it starts, as `module load cuda`."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch by name."""
    folder: str = "${hydra.sweep.dir}/.submitit"
    """Where submitit keeps its scripts, outputs and pickles."""


LaunchSweep = Callable[[Sequence[Any], Launch], None]
"""Runs trials, each what the task function returned for it; tells by itself which failed."""


class StudyLauncher(Launcher):
    """Composes every job of a sweep as Hydra's own launcher does, and starts none of them itself."""

    launch_sweep: ClassVar[LaunchSweep | None] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives; `task_function` composes a trial, and does not run it."""
        self._context, self._task, self._config = hydra_context, task_function, config

    @property
    @abstractmethod
    def settings(self) -> Launch:
        """What the user chose."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose all, then run all.

        A trial that failed ends no batch of the sweeper: its return value is None, and what became of it is told when
        the sweep has ended.
        """
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        composed = track(job_overrides, "composing trials") if len(job_overrides) > FEW else job_overrides
        returns = [self._compose(list(one), initial_job_idx + at) for at, one in enumerate(composed)]
        assert StudyLauncher.launch_sweep is not None, "enter `launching` around Hydra's main function"
        StudyLauncher.launch_sweep([one.return_value for one in returns], self.settings)
        for one in returns:
            one.return_value = None
        return returns

    def _compose(self, overrides: list[str], number: int) -> JobReturn:
        cfg = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        before = HydraConfig.instance().cfg
        try:
            done = run_job(
                hydra_context=self._context,
                task_function=self._task,
                config=cfg,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            done.cfg = done.hydra_cfg = None  # a thousand of them would be half a gigabyte
            return done
        finally:
            HydraConfig.instance().cfg = before


@dataclass
class LocalLauncher(Local, StudyLauncher):
    """``hydra/launcher=local``."""

    __module__ = MODULE

    @property
    def settings(self) -> Launch:
        """Itself."""
        return self


@dataclass
class RayLauncher(Ray, StudyLauncher):
    """``hydra/launcher=ray``."""

    __module__ = MODULE

    @property
    def settings(self) -> Launch:
        """Itself."""
        return self


@dataclass
class SubmititLauncher(Submitit, StudyLauncher):
    """``hydra/launcher=submitit``."""

    __module__ = MODULE

    @property
    def settings(self) -> Launch:
        """Itself."""
        return self


KINDS: dict[str, type[Launch]] = {"local": Local, "ray": Ray, "submitit": Submitit}


def register_launchers() -> None:
    """Tell Hydra of the launchers and their settings; any number of times."""
    for name, schema in KINDS.items():
        ConfigStore.instance().store(group=GROUP, name=name, node=schema, provider="rft")
    module = ModuleType(MODULE)
    for launcher in (LocalLauncher, RayLauncher, SubmititLauncher):
        Plugins.instance().register(launcher)
        module.__dict__[launcher.__name__] = launcher
    sys.modules[MODULE] = module
    _package().__dict__[MODULE.rpartition(".")[2]] = module


def _package() -> ModuleType:
    """Hydra's package of plugins; an empty one if no plugin is installed."""
    if PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is None:
        empty = ModuleType(PACKAGE)
        empty.__path__ = []
        sys.modules[PACKAGE] = empty
    return importlib.import_module(PACKAGE)


def check_launcher(chosen: DictConfig) -> None:
    """Refuse settings of a launcher of ours that are out of their range; others have no ranges.

    Raises:
        UserError: naming the first.
    """
    for schema in KINDS.values():
        if chosen.get("_target_") == schema._target_:
            check_ranges(schema, chosen, "hydra.launcher.")
            if chosen.gpus is not None and (chosen.gpus < 0 or (chosen.gpus > 1 and chosen.gpus % 1)):
                raise UserError(
                    f"hydra.launcher.gpus={chosen.gpus}: a trial takes a fraction of one GPU or a whole number of them"
                    "; correct it"
                )


def launcher_keys(overrides: Sequence[str]) -> list[str]:
    """Settings of the launcher that overrides choose."""
    asked = [one.partition("=")[2] for one in overrides if one.startswith(f"{GROUP}=")]
    return list(KINDS.get(asked[-1] if asked else "local", Local).__dataclass_fields__)


@contextmanager
def launching(launch_sweep: LaunchSweep) -> Iterator[None]:
    """What runs the trials of sweeps inside this context.

    Hydra's sweepers compose every trial before the launcher does so again, to see that it can be. That was a fifth of
    the time before the first trial began, and is known by then: `rft run` checks first, and the launcher composes all
    before it starts any.
    """
    before, legal = StudyLauncher.launch_sweep, Sweeper.validate_batch_is_legal
    StudyLauncher.launch_sweep = staticmethod(launch_sweep)
    Sweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]  # noqa: ARG005
    try:
        yield
    finally:
        StudyLauncher.launch_sweep, Sweeper.validate_batch_is_legal = before, legal  # type: ignore[method-assign]
