"""What a launcher asks of the place where trials run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from rft.study.slots import Demand, Grant, Machine, Slots

if TYPE_CHECKING:
    from rich.console import Console

    from rft.config.launchers import Launch


class Job(Protocol):
    """One trial, or a shared stage: ``rft`` with these arguments."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def arguments(self) -> list[str]:
        """Of the command line, after ``rft``."""

    @property
    def folder(self) -> Path:
        """What it writes, which is there before it starts."""

    @property
    def log(self) -> Path:
        """What it prints; both streams."""

    @property
    def forks(self) -> bool:
        """Whether it may start as a fork."""


class Process(Protocol):
    """A trial that was started, with what of ``subprocess.Popen`` a launcher needs."""

    @property
    def pid(self) -> int | None:
        """Process id on the machine that runs it; None until it begins there."""

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number if it was killed; None while it runs or waits to."""

    @property
    def lost(self) -> str:
        """Why nothing is known of its end, if what held it ended before it; else empty."""

    @property
    def host(self) -> str:
        """Name of the machine that runs it; empty if that is this one, or not known yet."""

    @property
    def unborn(self) -> bool:
        """Whether it ended because none could be forked, so that it may be started plainly in place of that."""

    def poll(self) -> int | None:
        """Look; the exit code, or None."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, however long it takes if no number of seconds is given; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: if it still runs then.
        """

    def terminate(self) -> None:
        """SIGTERM: it ends with its step and keeps its checkpoint. One that has not begun never begins."""

    def kill(self) -> None:
        """SIGKILL."""


class Executor(ABC):
    """Starts trials as processes of their own, each once whatever becomes of it.

    The trial's folder and the store must be seen under the same paths where it runs.
    """

    where: ClassVar[str]
    """In words, for the launcher's first line."""
    here: ClassVar[bool] = False
    """Whether trials are processes of this machine, started by this process."""
    slots: Slots
    """What may run at once."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """What trials that say nothing of cores and GPUs take a share of."""

    def require(self, demand: Demand, whose: str) -> None:
        """Refuse what would never fit.

        Raises:
            UserError: with what there is.
        """
        self.slots.require(demand, whose)

    @abstractmethod
    def start(self, job: Job, environment: Mapping[str, str], grant: Grant) -> Process:
        """Start a job.

        Args:
            job: what to run.
            environment: variables on top of this process's own.
            grant: from `slots`; what it may use.
        """

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Sleep so long, or less if something ends."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs, and what was started to run it."""


def make_executor(settings: Launch, console: Console) -> Executor:
    """Where trials run by these settings.

    Raises:
        UserError: if what it needs is not installed, or not there.
    """
    from rft.config.build import target_class  # a task that holds a slot imports this module and needs no Hydra

    made: Executor = target_class({"_target_": settings.executor})(settings, console)
    return made
