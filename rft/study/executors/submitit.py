"""Trials as jobs of SLURM, one each, through submitit; extra ``rft[slurm]``. ``cluster=local`` runs them here."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from rft.config.launchers import Cluster, Submitit
from rft.errors import UserError
from rft.study.capacity import this_machine
from rft.study.executors.base import Executor, Job
from rft.study.executors.hold import LOOK, UNSHARED, Held, Task, hold
from rft.study.slots import VISIBLE, Demand, Grant, Machine, Slots

SIGNALS = (int(signal.SIGTERM), int(signal.SIGUSR2))
"""scancel's, and the one that submitit has SLURM send some time before the limit."""


def library() -> Any:
    """submitit itself.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"hydra/launcher=submitit: {error}; install it: pip install 'rft[slurm]'") from error
    return submitit


@dataclass(slots=True)
class SubmititProcess(Held):
    """A trial that a job of SLURM holds."""

    job: Any = None

    def ended(self) -> int | None:
        """The trial's exit code when its job has ended. A written result is seen at once, other ends when asked for."""
        if not (self.job.paths.result_pickle.exists() or self.job.done()):
            return None
        errors = library().core.utils
        try:
            return int(self.job.result())
        except (errors.FailedJobError, errors.UncompletedJobError) as error:
            if self.unshared(error):
                return UNSHARED
            lines = [line for line in str(error).splitlines() if line.strip()]
            self.lost = f"the job that held it, {self.job.job_id}, ended as {self.job.state}: {lines[0]}"
            return -signal.SIGKILL

    def withdraw(self) -> None:
        """scancel."""
        self.job.cancel(check=False)


class SubmititExecutor(Executor):
    """Hands each trial to SLURM, which decides when it fits.

    Args:
        settings: partition, time and what else sbatch is told.
        console: not used.

    Raises:
        UserError: if submitit is not installed, there is no SLURM here, or it refuses a setting.
    """

    where: ClassVar[str] = "on SLURM"

    def __init__(self, settings: Submitit, console: Console) -> None:
        self.settings = settings
        submitit = library()
        # By value: the process that holds needs nothing of rft, nor minds what else is called so in its folder.
        submitit.core.utils.cloudpickle.register_pickle_by_value(sys.modules[hold.__module__])
        folder = Path(settings.folder).absolute()
        self._here = settings.cluster is Cluster.local
        try:
            self._executor = submitit.AutoExecutor(folder / "%j", cluster=settings.cluster.value)
            self._executor.update_parameters(**self._parameters())
        except (RuntimeError, ValueError, NameError) as error:
            raise UserError(
                f"hydra.launcher: {str(error).splitlines()[0]}; correct it, or use cluster=local"
            ) from error
        self.slots = Slots(this_machine() if self._here else None, settings.jobs)
        self._running: list[SubmititProcess] = []

    def _parameters(self) -> dict[str, Any]:
        """Those that all trials share."""
        settings = self.settings
        asked = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
        }
        found: dict[str, Any] = {f"slurm_{name}": value for name, value in asked.items() if value is not None}
        # A job that SLURM starts anew by itself would run a trial twice: that is for the launcher to decide.
        found["slurm_additional_parameters"] = {"no_requeue": True, **settings.sbatch}
        if not self._here:
            found |= {"slurm_signal_delay_s": settings.warn_seconds}
        if settings.shell:
            found["slurm_setup"] = list(settings.shell)
        return {"name": "rft", "timeout_min": settings.minutes, **found}

    @property
    def machine(self) -> Machine:
        """This one as a node of the cluster, of which nothing else is known from here."""
        return this_machine()

    def require(self, demand: Demand, whose: str) -> None:
        """Refuse what would never fit, and a share of a GPU where SLURM gives them."""
        if demand.parts and not self._here:
            raise UserError(f"hydra.launcher.gpus={demand.gpus:g}: SLURM gives whole GPUs; ask for 1, or use ray")
        super().require(demand, whose)

    def start(self, job: Job, environment: Mapping[str, str], grant: Grant) -> SubmititProcess:
        """Submit a job; the variables of this process go along by sbatch's own way, and into no file."""
        demand = grant.demand
        more: dict[str, Any] = {"cpus_per_task": demand.cores}
        if not self._here:
            more |= {"gpus_per_node": int(demand.gpus)} if demand.gpus else {}
            more |= {"mem_gb": demand.memory / 2**30} if demand.memory else {}
            environment = {name: value for name, value in environment.items() if name != VISIBLE}
        self._executor.update_parameters(**more)
        task = Task.of(job, environment)
        process = SubmititProcess(task, job=self._executor.submit(hold, task, SIGNALS))
        self._running.append(process)
        return process

    def pause(self, seconds: float) -> None:
        """Sleep."""
        self._running = [one for one in self._running if one.returncode is None]
        time.sleep(seconds)

    def close(self) -> None:
        """Kill what still runs; jobs that wait leave the queue."""
        for process in self._running:
            process.kill()
        deadline = time.monotonic() + 25 * LOOK
        while any(one.poll() is None for one in self._running) and time.monotonic() < deadline:
            time.sleep(LOOK)
        for process in self._running:
            if process.poll() is None:
                process.withdraw()
