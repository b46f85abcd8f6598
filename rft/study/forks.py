"""Jobs forked from a process that has imported everything (:mod:`rft.study.warm`), seen from the one that asks."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rft.runtime import on_huge_pages
from rft.study.warm import GRACE

SUPPORTED = sys.platform == "linux"
"""Elsewhere a process that has loaded system libraries may not fork, or there is no way to end with its parent."""


_early: list[Forks] = []
"""A server that was started before anybody had a job for it."""


@contextmanager
def server_started() -> Iterator[None]:
    """While open, a server is started already for the first who takes one; if nobody has, it ends with this.

    If this process is killed, it ends when it has imported.
    """
    _early.append(Forks())
    try:
        yield
    finally:
        drop_server()


def take_server() -> Forks:
    """The server that was started early, if nobody has taken it; else a new one."""
    return _early.pop() if _early else Forks()


def drop_server() -> None:
    """End the server that was started early, if nobody has taken it."""
    while _early:
        _early.pop().close()


class Forked:
    """A job in a fork, with what of ``subprocess.Popen`` a launcher needs.

    ``lost`` says why nothing is known of its end, if the server ended before it.
    """

    host = ""

    def __init__(self, server: Forks, job: int) -> None:
        self._server, self._job = server, job
        self.pid: int | None = None
        self.returncode: int | None = None
        self.lost = ""

    @property
    def unborn(self) -> bool:
        """Whether it never began, though nobody had asked it to end."""
        return bool(self.lost) and self.pid is None

    def poll(self) -> int | None:
        """The exit code, minus the signal's number if it was killed; None while it runs."""
        self._server.listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: if it still runs after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("rft", timeout or 0.0)
            self._server.listen(left)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        self._server.signal(self._job, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.signal(self._job, signal.SIGKILL)


class Forks:
    """Starts the server, hands it jobs and hears of their ends. It begins to work when its imports are done.

    The server is in a session of its own: a Ctrl-C reaches the asking process alone, which then ends the jobs.

    Args:
        environment: of the server; jobs have their own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.ready = False
        self.gone = ""
        """Why the server is no more."""
        self.withdrawn = False
        """Whether it was ended before it was ready, since a job was taken back: another one may be started."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, it is open as long as the server is
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rft.study.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=on_huge_pages(os.environ if environment is None else environment),
            start_new_session=True,
        )
        self._running: dict[int, Forked] = {}
        self._count = 0
        self._unread = b""

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def start(
        self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], stdout: Path, stderr: Path
    ) -> Forked:
        """Start ``rft`` with these arguments; both streams may go to the same file."""
        self._count += 1
        self._running[self._count] = job = Forked(self, self._count)
        self._send(
            job=self._count,
            arguments=list(arguments),
            cwd=str(cwd),
            environment=dict(environment),
            stdout=str(stdout.absolute()),
            stderr=str(stderr.absolute()),
        )
        return job

    def signal(self, job: int, number: int) -> None:
        """Signal a job that runs; before the server is ready none does, and the job never begins."""
        if job in self._running and not self.ready:
            self._running.pop(job).returncode = -int(number)
            self.withdrawn = True
            self.close()  # it would fork it; others that wait with it are started plainly
        elif job in self._running:
            self._send(job=job, signal=int(number))

    def listen(self, timeout: float | None) -> None:
        """Take in what the server says, waiting at most so many seconds for something."""
        assert self._process.stdout is not None
        while not self.gone and select.select([self._process.stdout], [], [], timeout)[0]:
            timeout = 0.0
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                self._lose()
                return
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    def close(self) -> None:
        """End the jobs and the server."""
        if self.gone:
            return
        assert self._process.stdin is not None
        if self.ready:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE + 1)
            self.listen(0.0)
        self._lose()

    def _send(self, **request: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._lose()

    def _hear(self, report: Mapping[str, object]) -> None:
        if "ready" in report:
            self.ready = True
            return
        number = report["job"]
        assert isinstance(number, int)
        job = self._running[number]
        pid, code, refused = report.get("pid"), report.get("code"), report.get("refused")
        if isinstance(pid, int):
            job.pid = pid
        if isinstance(code, int):
            job.returncode = code
        if refused is not None:
            job.returncode, job.lost = 1, f"no process could be forked: {refused}"
        if job.returncode is not None:
            del self._running[number]

    def _lose(self) -> None:
        """The server is at its end, or is brought there; so are its jobs."""
        if self.gone:
            return
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        self.gone = f"the process that trials are forked from ended with exit code {code}"
        self.gone += f" ({said[-1].strip()})" if said else ""
        for job in self._running.values():
            job.returncode, job.lost = -signal.SIGKILL, self.gone
        self._running.clear()
        self._log.close()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
