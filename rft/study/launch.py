"""Runs a study's jobs, some at once, each a process of its own that starts as a fork or plainly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rft.config import quoted
from rft.runtime import cores
from rft.store.names import RECORD
from rft.study.forks import SUPPORTED, Forked, Forks
from rft.study.trial import write_json
from rft.study.warm import GRACE

SWITCH = "RFT_FORK"
"""Environment variable; 0 starts every job as a plain process, imports and all."""
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

Process = subprocess.Popen[bytes] | Forked


@dataclass(frozen=True, slots=True)
class Job:
    """One process: ``rft run`` with these overrides."""

    name: str
    overrides: tuple[str, ...]
    folder: Path
    forks: bool = True
    """Whether it may start as a fork."""
    arm: str = ""
    """The arm that it belongs to."""
    seed: int | None = None
    """The trial's seed; None for a stage that trials share."""

    @property
    def arguments(self) -> list[str]:
        """Of the command line."""
        return ["run", *self.overrides, f"hydra.run.dir={quoted(str(self.folder))}"]

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder / "log.txt"


def may_fork(strategy: Mapping[str, Any]) -> bool:
    """Whether a trial with these settings may start as a fork; in doubt it starts plainly.

    A trial of several processes starts the others from nothing anyway. A GPU's driver that was asked anything does not
    work in a fork, and on a machine that has one any library may ask.
    """
    alone = (strategy.get("distribution"), strategy.get("devices")) == ("single", 1)
    return alone and (strategy.get("accelerator") == "cpu" or not any(Path(x).exists() for x in GPUS))


def stop(processes: Collection[Process]) -> None:
    """End processes: SIGTERM, and SIGKILL for those that are still there after a while."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def _last_line(job: Job) -> str:
    lines = [x for x in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    return lines[-1] if lines else "no output"


def retire(job: Job, reason: str) -> None:
    """Let no record of an earlier start pass for one that was killed before it could write its own."""
    record = job.folder / RECORD
    if not record.exists():
        return
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept.get("status") == "done":
        write_json(record, kept | {"status": "failed", "error": reason})


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


class Launcher:
    """Runs jobs with a live line for each; a job that fails ends alone.

    As a context it keeps the process that jobs are forked from, and ends on SIGTERM as on Ctrl-C: with its jobs.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._forks: Forks | None = None
        self._told = False
        self._handler: Any = None

    def __enter__(self) -> Launcher:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._forks is not None:
                self._forks.close()
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)

    def run(
        self, jobs: Sequence[Job], at_once: int, title: str, *, before: int = 0, total: int | None = None
    ) -> dict[str, str]:
        """Run all; returns the last line of each that failed, by name.

        Args:
            jobs: what to run.
            at_once: how many side by side.
            title: what they are, beside the bar over all.
            before: jobs of the same bar that ran earlier.
            total: jobs of the whole bar; these alone if not given.
        """
        at_once = max(1, min(at_once, len(jobs)))
        threads = max(1, cores() // at_once)
        waiting, failed = list(jobs), {}
        running: dict[Job, tuple[Process, TaskID]] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            whole = progress.add_task(title, total=total or len(jobs), completed=before)
            try:
                while waiting or running:
                    while waiting and len(running) < at_once:
                        job = waiting.pop(0)
                        task = progress.add_task(f"  {escape(job.name)}", total=None)
                        running[job] = (self.start(job, threads), task)
                    self._pause()
                    for job, (process, task) in list(running.items()):
                        self._show(progress, task, job)
                        if process.poll() is None:
                            continue
                        del running[job]
                        progress.remove_task(task)
                        if isinstance(process, Forked) and process.lost and process.pid is None:
                            waiting.insert(0, replace(job, forks=False))  # it never began
                            continue
                        progress.advance(whole)
                        if process.returncode:
                            failed[job.name] = self._failure(job, process)
            finally:
                if running:
                    self.console.print(f"ending {len(running)} jobs", highlight=False)
                stop([process for process, _ in running.values()])
        return failed

    def start(self, job: Job, threads: int) -> Process:
        """Start ``rft run`` in a process of its own; its output goes to ``log.txt`` in the job's folder."""
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "progress.json").unlink(missing_ok=True)  # an earlier start's
        environment = os.environ | {
            "RFT_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "RFT_PROGRESS_FILE": str(job.folder / "progress.json"),
        }
        with job.log.open("wb") as log:
            if job.forks and (forks := self._server()) is not None:
                return forks.start(
                    job.arguments, cwd=Path.cwd(), environment=environment, stdout=job.log, stderr=job.log
                )
            return subprocess.Popen(
                [sys.executable, "-m", "rft", *job.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def _server(self) -> Forks | None:
        """What to fork from, started when it is first asked for; None if there is none, or none any more."""
        if not SUPPORTED or os.environ.get(SWITCH) == "0":
            return None
        if self._forks is None:
            self._forks = Forks()
        if self._forks.gone:
            if not self._told:
                self.console.print(f"{self._forks.gone}; jobs start as plain processes from here on", markup=False)
            self._told = True
            return None
        return self._forks

    def _pause(self) -> None:
        if self._forks is not None and not self._forks.gone:
            self._forks.listen(0.2)  # less, if something ends
        else:
            time.sleep(0.2)

    def _failure(self, job: Job, process: Process) -> str:
        """Say and record why a job failed; returns it in one line."""
        if isinstance(process, Forked) and process.lost:
            reason = f"{process.lost}, and this job with it; start it again and it goes on from its last checkpoint"
        else:
            reason = _last_line(job)
        retire(job, reason)
        self.console.print(f"[red]failed[/] {escape(job.name)}: ", end="")
        self.console.print(reason, markup=False, highlight=False)
        return reason

    @staticmethod
    def _show(progress: Progress, task: TaskID, job: Job) -> None:
        try:
            state: dict[str, Any] = json.loads((job.folder / "progress.json").read_text(encoding="utf-8"))
            progress.update(task, description=escape(f"  {job.name}: {state['description']}"), completed=state["done"])
            progress.update(task, total=state["total"])
        except (OSError, ValueError, KeyError):
            pass
