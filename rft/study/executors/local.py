"""Trials as processes of this machine, forked from one that has imported everything or started plainly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from rft.config.launchers import Local
from rft.runtime import on_huge_pages
from rft.study.capacity import this_machine
from rft.study.executors.base import Executor, Job, Process
from rft.study.executors.hold import tied
from rft.study.forks import SUPPORTED, Forks, drop_server, server_started, take_server
from rft.study.slots import Grant, Machine, Slots

SWITCH = "RFT_FORK"
"""Environment variable; 0 starts every job as a plain process, imports and all."""


def started_early() -> AbstractContextManager[None]:
    """While open, what jobs are forked from is there before the first job is; nothing, where no job is forked."""
    return server_started() if _forks_here() else nullcontext()


def _forks_here() -> bool:
    return SUPPORTED and os.environ.get(SWITCH) != "0"


class Plain(subprocess.Popen[bytes]):
    """A process that pays for its own imports."""

    lost = ""
    unborn = False
    host = ""


class LocalExecutor(Executor):
    """Processes of this machine.

    Args:
        settings: trials at once.
        console: where it is said that jobs no longer fork.
    """

    where = "on this machine"
    here = True

    def __init__(self, settings: Local, console: Console) -> None:
        self.console = console
        self.slots = Slots(this_machine(), settings.jobs)
        self.forks: Forks | None = None
        """What jobs are forked from; none until the first."""
        self._told = False

    @property
    def machine(self) -> Machine:
        """This one."""
        assert self.slots.machine is not None
        return self.slots.machine

    def start(self, job: Job, environment: Mapping[str, str], grant: Grant) -> Process:
        """Start a job as a fork if it may be one, else plainly."""
        own = on_huge_pages({**os.environ, **environment})
        with job.log.open("wb") as log:
            if job.forks and (forks := self._server()) is not None:
                return forks.start(job.arguments, cwd=Path.cwd(), environment=own, stdout=job.log, stderr=job.log)
            drop_server()
            # Killed with this process, as a fork is: nobody would be told of its end.
            command = tied([sys.executable, "-m", "rft", *job.arguments])
            return Plain(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=own,
                start_new_session=True,  # a Ctrl-C reaches the launcher alone, which asks it to end
            )

    def _server(self) -> Forks | None:
        """What to fork from, started when it is first asked for; None if there is none, or none any more."""
        if not _forks_here():
            return None
        if self.forks is None or self.forks.withdrawn:
            self.forks = take_server()
        if self.forks.gone:
            if not self._told:
                self.console.print(f"{self.forks.gone}; jobs start as plain processes from here on", markup=False)
            self._told = True
            return None
        return self.forks

    def pause(self, seconds: float) -> None:
        """Sleep, or less if a fork ends."""
        if self.forks is not None and not self.forks.gone:
            self.forks.listen(seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        """End the process that jobs are forked from, and its forks."""
        if self.forks is not None:
            self.forks.close()
