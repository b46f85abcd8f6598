"""A process that imports everything once and forks a fresh ``rft`` for each job: ``python -m rft.study.warm``.

Imports are most of what a small trial costs. What runs in a fork is the real command line, with arguments, environment,
folder, standard streams and process group of its own; :mod:`rft.study.forks` is the other end.

One JSON object a line. On stdin, ``{"job", "arguments", "cwd", "environment", "stdout", "stderr"}`` starts a job and
``{"job", "signal"}`` signals it. On stdout, ``{"ready"}`` once, ``{"job", "pid"}`` when a job has started, ``{"job",
"code"}`` when it has ended (minus the signal's number if it was killed). When stdin ends, jobs that still run are ended
and then the server; should the server be killed, the kernel kills its jobs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rft.runtime import cores, end_process, end_with_parent, prepare_process
from rft.secrets import scrubbed

LIBRARIES = (
    "krippendorff",
    "lightning",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "pandas",
    "peft",
    "peft.tuners.tuners_utils",
    "pyarrow.parquet",
    "safetensors.numpy",
    "safetensors.torch",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "threadpoolctl",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "wandb",
)
PACKAGES = (
    "algorithms",
    "callbacks",
    "cli",
    "config",
    "data",
    "evaluation",
    "feedback",
    "models",
    "ops",
    "rewards",
    "rollout",
    "store",
    "study",
    "tasks",
)
SELDOM = frozenset({"rft.feedback.judges.endpoint", "rft.feedback.judges.in_flight"})
"""Modules with a library that few trials need and that takes half a second: a client of judges behind an endpoint."""
# Read when a library is loaded: numpy's OpenBLAS starts its threads then, and a process with threads must not fork.
AT_IMPORT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow has a thread for an allocator that it does not use
}
GRACE = 30.0  # seconds from SIGTERM to SIGKILL: a trial ends with its step, closes its tracker, writes its record

HANDLED = (signal.SIGCHLD, signal.SIGTERM)


def preload() -> None:
    """Import what trials need: libraries, and all modules of the packages that a trial runs through; no plugin of rft.

    What the command line and Hydra look up once in a process, Hydra's own plugins among it, they look up here.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    for part in PACKAGES:
        _import_all(f"rft.{part}")
    _read_commands()


def _read_commands() -> None:
    """Build the commands and compose what a trial begins with: the first time takes half a second longer."""
    import typer

    from rft.cli.app import app
    from rft.config.compose import compose_launcher

    typer.main.get_command(app)
    with contextlib.suppress(Exception):  # of a plugin; the jobs that choose it say so
        compose_launcher()


def _import_all(name: str) -> None:
    package = importlib.import_module(name)
    for found in pkgutil.iter_modules(package.__path__, f"{name}."):
        if found.ispkg:
            _import_all(found.name)
        elif found.name not in SELDOM:
            importlib.import_module(found.name)


def require_one_thread(but: int = 0) -> None:
    """A fork takes along only the thread that forks; what others hold stays locked in it for good.

    Args:
        but: how many there may be beside it which hold nothing then: all of these, or none.

    Raises:
        RuntimeError: naming the threads, if this process has others.
    """
    tasks = sorted(Path("/proc/self/task").iterdir())
    if threading.active_count() > 1 or len(tasks) not in (1, 1 + but):
        names = [thread.name for thread in threading.enumerate()]
        names += [(task / "comm").read_text(encoding="utf-8").strip() for task in tasks]
        raise RuntimeError(f"cannot fork beside other threads: {', '.join(names)}")


def use_threads() -> None:
    """Give libraries that are loaded already the threads that they would have found in the environment.

    torch's own follow with the trial's strategy (``rft.study.training.use_threads``).
    """
    from threadpoolctl import threadpool_limits

    def asked(name: str, otherwise: int) -> int:
        value = os.environ.get(name, "").partition(",")[0]
        return int(value) if value.isdigit() and int(value) else otherwise

    threads = asked("OMP_NUM_THREADS", cores())
    threadpool_limits({"openmp": threads, "blas": asked("OPENBLAS_NUM_THREADS", threads)})


def take_environment(wanted: Mapping[str, str], began: Mapping[str, str]) -> None:
    """Make the environment the wanted one, but for what imports changed: they would have changed it there too.

    Args:
        wanted: as a plain process would start with.
        began: as this process started with.
    """
    from rft.config.plugins import allowed_packages

    for name in began.keys() | AT_IMPORT.keys():
        if name not in wanted:
            os.environ.pop(name, None)
    for name, value in wanted.items():
        if name in AT_IMPORT or value != began.get(name):
            os.environ[name] = value
    allowed_packages.cache_clear()  # they are asked of the environment


def adopt(request: Mapping[str, Any], server: Server) -> None:
    """In the fork: take the surroundings that the request names."""
    import numpy as np

    os.setpgid(0, 0)
    end_with_parent()
    if os.getppid() != server.pid:  # it ended before it could have told
        os._exit(1)
    out = os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    same = request["stderr"] == request["stdout"]
    err = out if same else os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in {out, err}:
        os.close(descriptor)
    os.chdir(request["cwd"])
    if not sys.flags.safe_path:
        sys.path[0] = request["cwd"]  # as `python -m` has it
    take_environment(request["environment"], server.began)
    np.random.seed()  # as a process of its own: not what its siblings draw
    use_threads()
    gc.enable()


def command(arguments: list[str]) -> int:
    """Run ``python -m rft …``; returns its exit code."""
    from rft import __main__ as program
    from rft.cli import main

    # Lightning starts a trial's further processes by what these two say.
    sys.modules["__main__"] = program
    sys.argv = [str(program.__file__), *arguments]
    try:
        main()
    except SystemExit as end:
        return program.exit_code(end)
    except BaseException:
        sys.stderr.write(scrubbed(traceback.format_exc()))
        return 1


def become_rft(request: Mapping[str, Any], server: Server) -> NoReturn:
    """The life of a fork: nothing leads from here back into the server's loop."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        for descriptor in server.descriptors:
            os.close(descriptor)
        adopt(request, server)
        code = command(list(request["arguments"]))
        end_process(code)  # what it shares with the server would be copied first if it were freed
    except BaseException:
        sys.stderr.write(scrubbed(traceback.format_exc()))
    finally:
        os._exit(code & 0xFF)


class Server:
    """Forks and reaps in one thread, which waits for requests and for the ends of jobs.

    Args:
        requests: file descriptor that requests come from.
        reports: file descriptor that answers go to.
        began: the environment that this process started with.
    """

    def __init__(self, requests: int, reports: int, began: Mapping[str, str]) -> None:
        self.requests, self.reports = requests, reports
        self.pid, self.began = os.getpid(), began
        self._woken, self._waker = os.pipe()
        self.descriptors = (requests, reports, self._woken, self._waker)
        self._jobs: dict[int, int] = {}  # by process id
        self._unread = b""

    def run(self) -> None:
        """Answer until the requests end, or SIGTERM comes; then end what still runs."""
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)  # its number goes to the pipe, which wakes the select below
        self._report(ready=True)
        told = b""
        while signal.SIGTERM not in told:
            ready, _, _ = select.select([self.requests, self._woken], [], [])
            told = os.read(self._woken, 4096) if self._woken in ready else b""
            self._reap()
            if self.requests in ready and not self._read():
                break
        self._end()

    def _read(self) -> bool:
        """Take in what came; False at the end."""
        data = os.read(self.requests, 1 << 16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "signal" in request:
                self._signal(request["job"], request["signal"])
            else:
                self._start(request)
        return bool(data)

    def _start(self, request: Mapping[str, Any]) -> None:
        # A signal that comes before the fork has its own handlers waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            require_one_thread()
            pid = os.fork()
            if pid == 0:
                become_rft(request, self)
            self._jobs[pid] = request["job"]
            self._report(job=request["job"], pid=pid)
        except (OSError, RuntimeError) as error:  # whoever asked starts it plainly; the others go on
            self._report(job=request["job"], refused=str(error))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def _signal(self, job: int, number: int) -> None:
        for pid, other in self._jobs.items():
            if other == job:
                os.kill(pid, number)

    def _reap(self) -> None:
        while self._jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._jobs:
                self._report(job=self._jobs.pop(pid), code=os.waitstatus_to_exitcode(status))

    def _report(self, **what: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever asked is gone: the requests end too
            os.write(self.reports, json.dumps(what).encode() + b"\n")

    def _end(self) -> None:
        """SIGTERM to the jobs; those that outlive the grace are killed with this process."""
        for pid in self._jobs:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while self._jobs and time.monotonic() < deadline:
            time.sleep(0.02)
            self._reap()


def main() -> None:
    """Import, then serve."""
    began = dict(os.environ)
    prepare_process()  # before a library is loaded: its threads ask for OMP_WAIT_POLICY then
    requests, reports = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what an import prints is no report
    os.environ.update(AT_IMPORT)
    gc.disable()
    preload()
    require_one_thread()
    gc.collect()
    gc.freeze()  # what the collector does not visit stays shared with the forks
    Server(requests, reports, began).run()


if __name__ == "__main__":
    main()
