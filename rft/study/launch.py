"""Runs a study's jobs, some at once, each a process of its own that starts as a fork or plainly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from rft.config.launchers import Launch, Local
from rft.store import Store
from rft.store.names import INTERRUPTED, PROGRESS_FILE, TRIAL
from rft.study import killed
from rft.study.board import Board
from rft.study.demands import with_demands
from rft.study.executors.base import Executor, Process, make_executor
from rft.study.finished import has_results, is_finished, last_words, record_of, retire, stamp, tail
from rft.study.jobs import AHEAD, LAUNCHED, Job, row_of
from rft.study.killed import memory_kills
from rft.study.ledger import Ledger
from rft.study.owner import launchers, owner
from rft.study.rows import ENDED, Row, State
from rft.study.slots import Demand, Grant
from rft.study.warm import GRACE

REFUSED = 2
"""Exit code of what was refused since the user can mend it."""


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


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@dataclass
class _Running:
    """A job that runs."""

    job: Job
    process: Process
    task: TaskID
    memory_kills: int
    """Of the control group, when it started."""
    grant: Grant
    record: tuple[int, int] | None
    """Which record was there when it started."""
    cancelled: bool = False


@dataclass
class _Course:
    """One call of :meth:`Launcher.run`."""

    ledger: Ledger
    owner: str
    waiting: dict[str, Job]
    """By the name in the ledger: what has not ended yet."""
    demands: Mapping[str, Demand]
    places: Mapping[Path, str]
    """The names of all jobs by their folders."""
    board: Board
    whole: TaskID
    running: dict[str, _Running] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    looked: float = 0.0
    """When the ledger was last looked at, by a clock that never goes back."""
    elsewhere: set[str] = field(default_factory=set)
    """What other launchers had then."""


class Launcher:
    """Runs jobs with a live line for each; a job that fails ends alone. What it starts stands in the study's ledger.

    As a context it keeps what its jobs are started from, and ends on SIGTERM as on Ctrl-C: with its jobs. Other
    launchers of the same study may be at work: of a job that one of them has, its end is waited for.

    Args:
        console: where progress and failures are shown.
        study: the study's folder; None: the one that all jobs of a run lie in.
        again: the states in which a trial that is in the ledger is started once more. Shared stages always are.
        executor: starts the jobs; by the settings if not given.
        settings: where, and what a job takes that does not say so itself; on this machine if not given.
        meanwhile: is called once, when the first job has been started; until it returns no job is looked after.
    """

    def __init__(
        self,
        console: Console,
        study: Path | None = None,
        again: Collection[State] = ENDED,
        executor: Executor | None = None,
        settings: Launch | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        self.console, self.study, self.again = console, study, frozenset(again)
        self.settings = settings or Local()
        self.executor = executor or make_executor(self.settings, console)
        self.meanwhile = meanwhile
        self._handler: Any = None
        self._opened: dict[Path, tuple[Ledger, str]] = {}
        self._owned = ExitStack()
        self._submitted: set[tuple[Path, tuple[str, ...]]] = set()

    def __enter__(self) -> Launcher:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.executor.close()
        finally:
            self._owned.close()
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)

    def open(self, study: Path) -> tuple[Ledger, str]:
        """The ledger of a study, and this launcher's name there."""
        if study not in self._opened:
            warn = partial(self.console.print, style="yellow", markup=False, highlight=False, soft_wrap=True)
            ledger = Ledger(study, lambda line: warn(f"warning: {line}"))
            self._opened[study] = (ledger, self._owned.enter_context(owner(study)))
        return self._opened[study]

    def submit(self, jobs: Sequence[Job]) -> tuple[Ledger, str, dict[str, Job]]:
        """Put jobs into the ledger; returns it, this launcher's name, and the jobs by theirs."""
        study = self.study or Path(os.path.commonpath([job.folder.absolute().parent for job in jobs]))
        ledger, me = self.open(study.absolute())
        named = {job.folder.absolute().relative_to(ledger.study).as_posix(): job for job in jobs}
        rows = [row_of(name, job) for name, job in named.items()]
        # While another launcher is at work, what has ended has ended in the same run, and its end is taken.
        again = frozenset() if set(launchers(ledger.study)) - {me} else self.again
        there, store = {row.name: row for row in ledger.rows()}, Store.default()
        ledger.submit(rows, {row.name: self._once_more(row, there.get(row.name), again, ledger, store) for row in rows})
        return ledger, me, named

    def _once_more(
        self, row: Row, old: Row | None, again: frozenset[State], ledger: Ledger, store: Store
    ) -> frozenset[State]:
        """The states in which a trial that is in the ledger is started once more."""
        folder = ledger.study / row.name
        new = (folder, row.overrides) not in self._submitted
        self._submitted.add((folder, row.overrides))
        if old is not None and not row.id and old.overrides != row.overrides:
            return ENDED  # a place that holds one thing after another, as that of a tuning trial
        if not new:  # what has ended since, or was cancelled, stays so
            return frozenset()
        if old is None or old.state is not State.done or row.seed is None:
            return again
        if is_finished(folder, store):
            return again - {State.done}
        # Results of older code are made anew by those that run a study as it is now, not by those that go on with it.
        lost = not has_results(folder, store)
        return again | {State.done} if lost or State.done in again else again

    def run(
        self, jobs: Sequence[Job], at_once: int, title: str, *, before: int = 0, total: int | None = None
    ) -> dict[str, str]:
        """Run what is not done; returns the last line of each that failed or was stopped, by name.

        Where one that others come after does not end well, no more is started.

        Args:
            jobs: what to run.
            at_once: how many side by side; 0: as many as fit.
            title: what they are, beside the bar over all.
            before: jobs of the same bar that ran earlier.
            total: jobs of the whole bar; these alone if not given.

        Raises:
            UserError: if the ledger cannot be used, or a job takes more than there is.
        """
        if not jobs:
            return {}
        jobs = with_demands(jobs, at_once, self.executor, self.settings)
        ledger, me, named = self.submit(jobs)
        demands = {name: job.demand or Demand() for name, job in named.items()}
        with Board(self.console) as board:
            whole = board.progress.add_task(title, total=total or len(jobs), completed=before)
            course = _Course(ledger, me, named, demands, {job.folder: job.name for job in jobs}, board, whole)
            try:
                while course.waiting:
                    self._look_around(course)
                    self._start_some(course)
                    if course.running and (meanwhile := self.meanwhile) is not None:
                        self.meanwhile = None
                        meanwhile()
                    self.executor.pause(0.2)
                    self._look_after(course)
            finally:
                self._end(course)
        return course.failed

    def _start_some(self, course: _Course) -> None:
        """Start jobs that nobody has, as far as there is room."""
        slots = self.executor.slots
        unfinished = {job.folder for job in course.waiting.values()}
        awaited = {folder for job in course.waiting.values() for folder in job.after}
        if any(course.places.get(folder) in course.failed for folder in awaited):
            course.waiting = {name: job for name, job in course.waiting.items() if name in course.running}
            return
        others = course.running.keys() | course.elsewhere
        ready = [name for name, job in course.waiting.items() if unfinished.isdisjoint(job.after)]
        free = {name: course.demands[name] for name in ready if name not in others}
        while taken := slots.fitting(list(free.items())):
            name, grant = str(taken[0]), taken[1]
            del free[name]
            job, claimed = course.waiting[name], course.ledger.claim([name], course.owner)
            if not claimed:
                slots.give_back(grant)
                course.elsewhere.add(name)
                continue
            if claimed[0].state is not State.queued and job.seed is not None and self._is_finished(name, job):
                slots.give_back(grant)
                self._settle(course, name, State.done)  # its launcher died after its end
                continue
            task = course.board.progress.add_task(f"  {escape(job.name)}", total=None)
            there = stamp(job.folder)
            course.running[name] = _Running(job, self.start(job, grant), task, memory_kills(), grant, there)

    @staticmethod
    def _is_finished(name: str, job: Job) -> bool:
        same = TRIAL.fullmatch(name) or record_of(job.folder).get("overrides") == list(job.overrides)
        return bool(same) and is_finished(job.folder, Store.default())

    def _look_around(self, course: _Course) -> None:
        """Once a second: tell the ledger what runs, hear what is cancelled and what other launchers have ended."""
        if course.looked and time.monotonic() - course.looked < 1:
            return
        course.looked = time.monotonic()
        at = {name: (one.process.host, one.process.pid) for name, one in course.running.items()}
        for name in course.ledger.beat(at):
            if not course.running[name].cancelled:  # asked twice, it would end at once
                course.running[name].cancelled = True
                course.running[name].process.terminate()
        there = {row.name: row for row in course.ledger.rows()}
        course.board.rows = [row for row in there.values() if row.is_trial and row.name in course.demands]
        course.elsewhere = {
            row.name for row in there.values() if row.state is State.running and row.owner != course.owner
        }
        for name, job in list(course.waiting.items()):
            row = there.get(name)
            if name in course.running and (row is None or row.owner != course.owner):
                course.ledger.adopt(row_of(name, job), course.owner)  # the ledger was damaged and made again
            elif row is None:
                course.ledger.submit([row_of(name, job)], {})
            elif not row.id and row.overrides != job.overrides and row.state in ENDED:
                course.ledger.submit([row_of(name, job)], {name: ENDED})  # of another launcher: another share of it
            elif name not in course.running and row.state in ENDED and row.owner is None:
                del course.waiting[name]
                course.board.progress.advance(course.whole)
                if row.state is not State.done:
                    course.failed[job.name] = last_words(row.error or row.state.value)
                self.ended(job, row.state, here=False)

    def _look_after(self, course: _Course) -> None:
        """Settle what has ended."""
        for name, one in list(course.running.items()):
            self._show(course.board.progress, one.task, one.job)
            if one.process.poll() is None:
                continue
            if one.process.unborn and not one.cancelled:
                one.job = replace(one.job, forks=False)
                one.process = self.start(one.job, one.grant)
                continue
            self._settle(course, name, *self._outcome(one))

    def _outcome(self, one: _Running) -> tuple[State, str | None]:
        """How a job ended, and why if it is not done."""
        code, record = one.process.returncode or 0, record_of(one.job.folder)
        new = stamp(one.job.folder) != one.record
        ended_well = record.get("status") == "done" and (new or not code)  # however it was ended after that
        if ended_well if one.job.seed is not None else not code:
            return State.done, None
        if one.cancelled:
            return State.cancelled, "cancelled"
        if one.process.lost:
            why = f"{one.process.lost}, and this job with it; start it again and it goes on from its last checkpoint"
            return State.interrupted, why
        if code == -signal.SIGKILL:
            return State.interrupted, self._why_killed(one, code)
        told = str(record.get("error") or "") if new else ""
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM) or told.startswith(INTERRUPTED):
            return State.interrupted, told or self._why_killed(one, -signal.SIGTERM)
        if not code:
            return State.failed, "it ended with exit code 0, and its record does not say that it is done"
        return State.failed, self._why_failed(one, told, code)

    @staticmethod
    def _why_failed(one: _Running, told: str, code: int) -> str:
        """In lines: its traceback, or the last that it printed and how it ended."""
        if told.startswith("Traceback"):
            return told
        lines = tail(one.job.log)
        if code < 0:
            lines.append(killed.why(code, None, 0))
        elif told and told not in lines[-1]:
            lines.append(told)
        elif not told and code != REFUSED:  # whoever refuses what the user gave says why
            lines.append(f"ended with exit code {code}")
        return "\n".join(lines)

    def _why_killed(self, one: _Running, code: int) -> str:
        """In words; the kernel that is asked is that of this machine."""
        return killed.why(
            code, *((one.process.pid, one.memory_kills) if self.executor.here else (None, memory_kills()))
        )

    def _settle(
        self, course: _Course, name: str, state: State, error: str | None = None, owner: str | None = None
    ) -> None:
        """Write a job's end into the ledger and say it."""
        job, one = course.waiting.pop(name), course.running.pop(name, None)
        if one is not None:
            self.executor.slots.give_back(one.grant)
            course.board.progress.remove_task(one.task)
        course.board.progress.advance(course.whole)
        versions = record_of(job.folder).get("versions") if state is State.done else None
        if error is not None:
            reason = course.failed[job.name] = last_words(error)
            retire(job.folder, reason)
            self.console.print(f"[red]{state.value}[/] {escape(job.name)}: ", end="")
            self.console.print(reason, markup=False, highlight=False)
        course.ledger.end(name, state, error, versions, owner)
        self.ended(job, state, here=True)

    def ended(self, job: Job, state: State, *, here: bool) -> None:
        """Called when a job has ended, `here` or by another launcher or earlier; says what no bar can show."""
        if state is State.done and not self.console.is_terminal:
            self.console.print(f"{job.name}: done", markup=False, highlight=False)

    def _end(self, course: _Course) -> None:
        """End what still runs; other launchers, or `rft resume`, may go on with it."""
        if not course.running:
            return
        names = ", ".join(one.job.name for one in course.running.values())
        self.console.print(f"ending what runs: {names}", markup=False, highlight=False)
        try:
            stop([one.process for one in course.running.values()])
        finally:
            for name, one in list(course.running.items()):
                one.process.wait()
                state, error = self._outcome(one)
                if one.process.returncode == -signal.SIGKILL and not one.process.lost:
                    error = f"killed: it had not ended {GRACE:.0f} s after it was asked to, or at a second Ctrl-C"
                if state is State.failed:
                    state = State.interrupted
                me = course.owner if state is State.interrupted else None
                self._settle(course, name, state, error, me)

    def start(self, job: Job, grant: Grant) -> Process:
        """Start ``rft run`` in a process of its own; its output goes to ``log.txt`` in the job's folder."""
        job.folder.mkdir(parents=True, exist_ok=True)
        progress = job.folder.absolute() / PROGRESS_FILE
        progress.unlink(missing_ok=True)  # an earlier start's
        environment = {**grant.environment, "RFT_PROGRESS_FILE": str(progress), LAUNCHED: "1"}
        environment |= {AHEAD: "1"} if job.seed is None else {}
        return self.executor.start(job, environment, grant)

    @staticmethod
    def _show(progress: Progress, task: TaskID, job: Job) -> None:
        try:
            state: dict[str, Any] = json.loads((job.folder / PROGRESS_FILE).read_text(encoding="utf-8"))
            progress.update(task, description=escape(f"  {job.name}: {state['description']}"), completed=state["done"])
            progress.update(task, total=state["total"])
        except (OSError, ValueError, KeyError):
            pass
