"""A task elsewhere holds a slot while the trial runs beside it, as the same process that it would be here.

The task does nothing else: no model is loaded in it, so that a worker that runs many tasks leaks nothing from one to
the next, and a trial of several processes starts them as anywhere. Launcher and task speak through two files in the
trial's folder: the task says the process that it started, the launcher which signal to send it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import ClassVar

from rft.study.executors.base import Job

ASKED = ".asked-"
"""How the files begin that name a signal to send, one for each start."""
LOOK = 0.2
"""Seconds between looks at the file with the signal."""
UNSHARED = 2
"""Exit code of a trial that was not started where it does not see what the launcher sees."""
PATIENCE = 10.0
"""Seconds in which a shared file system shows a node what the launcher has written."""
NOT_SEEN = "all nodes must share the folder of the runs and the store"
# A process that starts as this and then becomes the trial: should its parent be killed, the kernel kills it too. Not
# between fork and exec of the parent, which may have threads.
TIED = (
    "import ctypes, os, signal, sys\n"
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


@dataclass(frozen=True, slots=True)
class Task:
    """What is handed over, as plain data."""

    arguments: tuple[str, ...]
    """After ``rft``."""
    cwd: str
    log: str
    environment: Mapping[str, str]
    """On top of that of the process that holds."""
    begun: str
    """File that says host and process id."""
    asked: str
    """File that names a signal to send; there from the beginning, naming none."""
    shared: Mapping[str, str]
    """Files that the launcher has written, and what is in them: where they are not seen, nothing is shared."""

    @classmethod
    def of(cls, job: Job, environment: Mapping[str, str]) -> Task:
        """A job as a task; its files are of this start alone, so that nothing old is taken for its own."""
        one = uuid.uuid4().hex[:8]
        folder = job.folder.absolute()
        ask_to_end(folder)  # a start of before, which may still wait in a queue though its launcher is gone
        asked = folder / f"{ASKED}{one}"
        _write(asked, {"signal": 0})
        return cls(
            tuple(job.arguments),
            str(Path.cwd()),
            str(job.log.absolute()),
            dict(environment),
            str(folder / f".begun-{one}"),
            str(asked),
            {str(asked): ""} | _store_mark(),
        )


def _store_mark() -> dict[str, str]:
    """A file of the store, and what tells it from that of any other store; none if nothing can be written there."""
    from rft.store import Store  # here: what holds a trial elsewhere needs nothing of rft

    mark = Store.default().root / ".mark"
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), mark.open("x", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
        return {str(mark): mark.read_text(encoding="ascii")}
    return {}


def ask_to_end(folder: Path) -> None:
    """Ask whatever was started in a trial's folder and may wait or run elsewhere to end; it does so when it looks."""
    for asked in folder.glob(f"{ASKED}*[0-9a-f]"):
        with suppress(OSError):
            _ask(asked, int(signal.SIGTERM))


def hold(task: Task, signals: tuple[int, ...] = ()) -> int:
    """Run the trial and wait for its end; returns its exit code, minus the signal's number if it was killed.

    An interrupt, by which Ray cancels, and the signals named are passed on as SIGTERM: the trial ends with its step and
    keeps its checkpoint.

    Args:
        task: what to run.
        signals: by which a scheduler says that the time is over.

    Raises:
        FileNotFoundError: if this machine does not see what the launcher has written.
    """
    process: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if process is not None:
            process.terminate()

    # A KeyboardInterrupt may be raised between any two lines. Out of here it would leave the trial behind, in a worker
    # that lives on.
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, *signals)}
    try:
        asked = _asked(task)
        if told or asked:
            Path(task.asked).unlink(missing_ok=True)  # its launcher may be gone
            return -(asked or signal.SIGTERM)
        _require_shared(task)
        process = _start(task)
        if told:  # while it started
            process.terminate()
        _write(Path(task.begun), {"host": socket.gethostname(), "pid": process.pid})
        return _end_of(process, task)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tied(command: list[str]) -> list[str]:
    """The command that starts a command which ends with this process, however that comes; on Linux alone."""
    return [sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()), *command]


def _require_shared(task: Task) -> None:
    deadline = time.monotonic() + PATIENCE
    while missing := [path for path, text in task.shared.items() if not _has(Path(path), text)]:
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{socket.gethostname()} does not see {Path(missing[0]).parent}; {NOT_SEEN}")
        time.sleep(LOOK)


def _has(file: Path, text: str) -> bool:
    try:
        return text in file.read_text(encoding="ascii")
    except OSError:
        return False


def _start(task: Task) -> subprocess.Popen[bytes]:
    with Path(task.log).open("wb") as log:
        return subprocess.Popen(
            tied([sys.executable, "-m", "rft", *task.arguments]),
            cwd=task.cwd,
            env={**os.environ, **task.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a scheduler's signal reaches the task alone, which passes it on once
        )


def _end_of(process: subprocess.Popen[bytes], task: Task) -> int:
    """Wait for it, and send it what the launcher asks for."""
    sent = 0
    while True:
        try:
            return process.wait(LOOK)
        except subprocess.TimeoutExpired:
            asked = _asked(task)
            if asked and asked != sent:
                process.send_signal(asked)
                sent = asked


def _asked(task: Task) -> int:
    """The signal that the launcher asks for; 0: none."""
    try:
        return int(json.loads(Path(task.asked).read_text(encoding="ascii"))["signal"])
    except (OSError, ValueError):  # none, or a shared file system that shows half of it
        return 0


def _ask(path: Path, number: int) -> None:
    """Name a signal to send; the launcher and `rft cancel` may do so at once."""
    _write(path, {"signal": number}, by=f".{uuid.uuid4().hex[:8]}")


def _write(path: Path, what: Mapping[str, object], *, by: str = "") -> None:
    beside = path.with_name(f"{path.name}{by}.new")
    beside.write_text(json.dumps(what), encoding="ascii")
    beside.replace(path)


@dataclass(slots=True)
class Held(ABC):
    """A trial that a task holds, seen from the launcher."""

    task: Task
    returncode: int | None = None
    lost: str = ""
    unborn: ClassVar[bool] = False
    host: str = ""
    """Where it runs; empty until it begins."""
    _pid: int | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """Process id on its host; None until it begins."""
        if self._pid is None:
            with suppress(OSError, ValueError):
                said = json.loads(Path(self.task.begun).read_text(encoding="ascii"))
                self.host, self._pid = str(said["host"]), int(said["pid"])
        return self._pid

    def poll(self) -> int | None:
        """Look whether the task has ended, and how."""
        if self.returncode is None:
            began = self.pid is not None
            self.returncode = self.ended()
            if self.returncode is not None:
                _ = began or self.pid
                for file in (self.task.begun, self.task.asked):
                    Path(file).unlink(missing_ok=True)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("rft", timeout or 0.0)
            time.sleep(LOOK if left is None else min(LOOK, left))
        return code

    def terminate(self) -> None:
        """SIGTERM, or out of the queue if it has not begun."""
        if self.poll() is None:
            _ask(Path(self.task.asked), int(signal.SIGTERM))
            if self.pid is None:
                self.withdraw()

    def kill(self) -> None:
        """SIGKILL, or out of the queue if it has not begun."""
        if self.poll() is None:
            _ask(Path(self.task.asked), int(signal.SIGKILL))
            if self.pid is None:
                self.withdraw()

    def unshared(self, error: Exception) -> bool:
        """Whether the task says that it does not see what the launcher sees; then the trial's log says so."""
        said = next((line for line in str(error).splitlines() if NOT_SEEN in line), None)
        if said is not None:
            Path(self.task.log).write_text(f"{said.partition('FileNotFoundError: ')[2] or said}\n", encoding="utf-8")
        return said is not None

    @abstractmethod
    def ended(self) -> int | None:
        """The trial's exit code when its task has ended; says in `lost` if that told none."""

    @abstractmethod
    def withdraw(self) -> None:
        """Take the task out of its queue; one that begins at that moment may go on, and finds the signal."""
