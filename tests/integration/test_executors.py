"""Processes here, on Ray and through submitit: the same code comes back, once, within what was granted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from rft.config.launchers import Cluster, Local, Ray, Submitit
from rft.errors import UserError
from rft.study.executors import hold
from rft.study.executors.base import Executor, Process
from rft.study.executors.hold import Task, ask_to_end
from rft.study.slots import Demand, Grant, Machine, Slots
from tests.integration.harness import REPOSITORY, wait_until

pytestmark = pytest.mark.xdist_group("executors")  # else each worker process starts a Ray of its own
FOUR = Machine(16, 0, ("0", "1", "2", "3"))
# `python -m rft` takes the current folder first: a job that does what its argument says, in no time.
STAND_IN = """
import json, os, pathlib, signal, sys, time
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with (folder / "runs").open("a") as file:
    file.write(f"{os.getpid()}\\n")
kept = ("CUDA_VISIBLE_DEVICES", "RFT_THREADS", "OMP_NUM_THREADS", "MARK")
(folder / "said").write_text(json.dumps({name: os.environ.get(name) for name in kept} | {"cwd": os.getcwd()}))
print("this is", what, flush=True)
if what == "exit":
    sys.exit(int(sys.argv[3]))
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "stay":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("stays", flush=True)
    while True:
        time.sleep(0.05)
"""


@dataclass(frozen=True)
class Errand:
    """A job for the stand-in."""

    name: str
    folder: Path
    what: tuple[str, ...]
    forks: bool = False

    @property
    def arguments(self) -> list[str]:
        return [self.what[0], str(self.folder), *self.what[1:]]

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def runs(self) -> list[int]:
        file = self.folder / "runs"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def said(self) -> dict[str, str | None]:
        found: dict[str, str | None] = json.loads((self.folder / "said").read_text())
        return found


def _local(folder: Path) -> Executor:
    from rft.study.executors.local import LocalExecutor

    executor = LocalExecutor(Local(), Console(stderr=True))
    executor.slots = Slots(FOUR)  # as if the machine had them: the jobs only look at the variable
    return executor


def _ray(folder: Path) -> Executor:
    if find_spec("ray") is None:  # not imported here: Ray must read what the executor sets before
        pytest.skip("the extra `ray` is not installed")
    from rft.study.executors.ray import RayExecutor

    # A machine that is too busy for Ray to start in time may have a cluster of 16 cores and 4 GPUs running.
    running = os.environ.get("RAY_ADDRESS")
    return RayExecutor(Ray(address=running, cluster_cores=16, cluster_gpus=4), Console(stderr=True))


def _submitit(folder: Path) -> Executor:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    from rft.study.executors.submitit import SubmititExecutor

    executor = SubmititExecutor(Submitit(cluster=Cluster.local, folder=str(folder / ".submitit")), Console(stderr=True))
    executor.slots = Slots(FOUR)
    return executor


@pytest.fixture(scope="module", params=[_local, _ray, _submitit], ids=["local", "ray", "submitit"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    made: Executor = request.param(tmp_path_factory.mktemp("executor"))
    yield made
    made.close()


Make = Callable[..., Errand]


@pytest.fixture
def errand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    (tmp_path / "rft").mkdir()
    (tmp_path / "rft" / "__init__.py").write_text("")
    (tmp_path / "rft" / "__main__.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)

    def make(name: str, *what: str) -> Errand:
        (tmp_path / name).mkdir()
        return Errand(name, tmp_path / name, what)

    return make


def start(executor: Executor, job: Errand, demand: Demand | None = None) -> tuple[Process, Grant]:
    taken = executor.slots.fitting([(job.name, demand or Demand())])
    assert taken is not None
    return executor.start(job, {**taken[1].environment, "MARK": "of the job"}, taken[1]), taken[1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("what", "code"), [(("exit", "0"), 0), (("exit", "3"), 3), (("killed",), -signal.SIGKILL)], ids=["0", "3", "9"]
)
def test_a_job_runs_once_and_its_code_comes_back(
    executor: Executor, errand: Make, what: tuple[str, ...], code: int
) -> None:
    job = errand("one", *what)
    process, grant = start(executor, job, Demand(3))
    assert process.wait(60) == code
    executor.slots.give_back(grant)
    time.sleep(1.0)  # what would be run again begins at once
    assert len(job.runs) == 1
    assert (process.pid, process.lost) == (job.runs[0], "")
    assert job.log.read_text() == f"this is {what[0]}\n"
    assert job.said["RFT_THREADS"] == job.said["OMP_NUM_THREADS"] == "3"
    assert (job.said["MARK"], job.said["cwd"]) == ("of the job", str(Path.cwd()))
    assert not list(job.folder.glob(".*"))


@pytest.mark.parametrize(
    "executor",
    [_local, _ray, pytest.param(_submitit, marks=pytest.mark.slow)],
    ids=["local", "ray", "submitit"],
    indirect=True,
)
def test_shares_and_whole_gpus_are_packed(executor: Executor, errand: Make) -> None:
    """4 GPUs hold 4 halves, and 2 whole for one; a fifth half would not fit beside them."""
    jobs = [errand(f"half-{n}", "stay") for n in range(4)] + [errand("two", "stay")]
    demands = [Demand(1, 0, 0.5)] * 4 + [Demand(1, 0, 2)]
    started = [start(executor, job, demand) for job, demand in zip(jobs, demands, strict=True)]
    assert executor.slots.fitting([("more", Demand(1, 0, 0.5))]) is None
    wait_until(lambda: all((job.folder / "said").exists() and "stays" in job.log.read_text() for job in jobs), 200)
    seen = [(job.said["CUDA_VISIBLE_DEVICES"] or "").split(",") for job in jobs]
    for process, grant in started:
        process.terminate()
        assert process.wait(30) == 7
        executor.slots.give_back(grant)
    used = Counter(gpu for halves in seen[:4] for gpu in halves)
    assert sorted(used.values()) == [2, 2]
    assert len(seen[4]) == 2
    assert {*used, *seen[4]} == {"0", "1", "2", "3"}


def test_no_other_machine_can_reach_what_runs_jobs(executor: Executor) -> None:
    """Who reaches a Ray cluster runs code there."""
    import psutil

    own = psutil.Process()
    heard = {
        one.laddr.ip.removeprefix("::ffff:")
        for process in [own, *own.children(recursive=True)]
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    if executor.where == "on Ray" and "RAY_ADDRESS" not in os.environ:
        assert heard == {"127.0.0.1"}
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_job_without_a_gpu_sees_none(executor: Executor, errand: Make) -> None:
    job = errand("none", "exit", "0")
    process, grant = start(executor, job)
    assert process.wait(60) == 0
    executor.slots.give_back(grant)
    assert not job.said["CUDA_VISIBLE_DEVICES"]


def test_a_killed_job_is_told_as_such(executor: Executor, errand: Make) -> None:
    job = errand("long", "stay")
    process, grant = start(executor, job)
    wait_until(lambda: "stays" in (job.log.read_text() if job.log.exists() else ""))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    executor.slots.give_back(grant)
    assert not alive(job.runs[0])


@pytest.mark.parametrize(
    "executor",
    [_local, _ray, pytest.param(_submitit, marks=pytest.mark.slow)],  # submitit looks for the dead but now and then
    ids=["local", "ray", "submitit"],
    indirect=True,
)
def test_what_holds_a_job_takes_it_along(executor: Executor, errand: Make) -> None:
    job = errand("held", "stay")
    process, grant = start(executor, job)
    wait_until(lambda: "stays" in (job.log.read_text() if job.log.exists() else ""))
    holder = int(Path(f"/proc/{job.runs[0]}/stat").read_text().rpartition(")")[2].split()[1])
    if holder == os.getpid():
        process.kill()
    else:
        os.kill(holder, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    executor.slots.give_back(grant)
    wait_until(lambda: not alive(job.runs[0]))
    assert bool(process.lost) == (holder != os.getpid())
    time.sleep(1.0)
    assert len(job.runs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
def test_one_that_waits_for_ray_never_begins_once_it_is_stopped(executor: Executor, errand: Make, hard: bool) -> None:
    if executor.where != "on Ray":
        pytest.skip("only a cluster's queue holds what was started")
    first, second = errand("first", "stay"), errand("second", "stay")
    process, grant = start(executor, first, Demand(16))
    wait_until(lambda: "stays" in (first.log.read_text() if first.log.exists() else ""))  # else it might be withdrawn
    waits = executor.start(second, {}, Grant(Demand(16)))
    assert waits.poll() is None
    assert waits.pid is None
    (waits.kill if hard else waits.terminate)()
    assert waits.wait(30) < 0
    process.terminate()
    assert process.wait(30) == 7
    executor.slots.give_back(grant)
    time.sleep(1.0)
    assert second.runs == []


@pytest.mark.slow
def test_a_job_is_refused_where_what_the_launcher_wrote_is_not_seen(executor: Executor, errand: Make) -> None:
    """As on a node that has a folder of its own under the same path: the file is gone when the task looks."""
    if executor.where != "on Ray":
        pytest.skip("only a cluster's queue holds what was started")
    first, second = errand("first", "stay"), errand("second", "exit", "0")
    process, grant = start(executor, first, Demand(16))
    wait_until(lambda: "stays" in (first.log.read_text() if first.log.exists() else ""))
    waits = executor.start(second, {}, Grant(Demand(16)))
    for file in second.folder.glob(".asked-*"):
        file.unlink()
    process.terminate()
    assert process.wait(30) == 7
    executor.slots.give_back(grant)
    assert waits.wait(60) == 2
    assert (second.runs, waits.lost) == ([], "")
    assert f"does not see {second.folder}; all nodes must share" in second.log.read_text()


@pytest.mark.parametrize("missing", ["run", "store", "nothing"])
def test_what_holds_a_job_looks_whether_it_sees_what_the_launcher_wrote(
    errand: Make, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(hold, "PATIENCE", 0.0)
    job = errand("one", "exit", "0")
    task = Task.of(job, {})
    if missing == "run":
        Path(task.asked).unlink()
    if missing == "store":
        (tmp_path / "store" / ".mark").write_text("of another one")
    if missing == "nothing":
        assert hold.hold(task) == 0
        return
    with pytest.raises(
        FileNotFoundError, match=rf"does not see .*/{'one' if missing == 'run' else 'store'}; all nodes"
    ):
        hold.hold(task)
    assert job.runs == []


# What holds a job and lives on after it, as a worker of Ray does: an interrupt is an exception in it.
WORKER = """
import signal, sys, time
from rft.study.executors.hold import Task, hold
holding, code = True, "interrupted"
def interrupt(*_):
    if holding:
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
try:
    code = hold({task!r})
except KeyboardInterrupt:
    pass
holding = False
print(code, flush=True)
time.sleep(60)
"""


@contextmanager
def worker(task: Task) -> Iterator[subprocess.Popen[str]]:
    own = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WORKER.format(task=task)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=own, stdout=subprocess.PIPE, text=True) as one:
        try:
            yield one
        finally:
            one.kill()


@pytest.mark.parametrize("saying", [False, True], ids=["waiting", "saying"])
def test_an_interrupt_of_what_holds_a_job_ends_it_softly(errand: Make, saying: bool) -> None:
    """While the task waits for the job, or still writes the file that says its process id."""
    job = errand("one", "stay")
    task = Task.of(job, {})
    named = Path(f"{task.begun}.new")
    if saying:
        os.mkfifo(named)  # writing stops here until somebody reads
    with worker(task) as held:
        wait_until(lambda: "stays" in (job.log.read_text() if job.log.exists() else ""))
        held.send_signal(signal.SIGINT)
        if saying:
            wait_until(lambda: not alive(job.runs[0]))
            assert json.loads(named.read_text())["pid"] == job.runs[0]
        assert held.stdout is not None
        assert held.stdout.readline() == "7\n"
        assert not alive(job.runs[0])


def test_a_start_that_waits_is_taken_back_by_the_next_one(errand: Make) -> None:
    """As that of a launcher which was killed while its job was in a queue."""
    job = errand("one", "stay")
    before, after = Task.of(job, {}), Task.of(job, {})
    assert hold.hold(before) == -signal.SIGTERM
    assert job.runs == []
    assert not Path(before.asked).exists()
    with worker(after):
        wait_until(lambda: job.runs)
        ask_to_end(job.folder)
        wait_until(lambda: not alive(job.runs[0]))
    assert len(job.runs) == 1


def test_a_share_of_a_gpu_is_refused_where_slurm_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rft.study.executors.submitit import SubmititExecutor

    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    with pytest.raises(UserError, match=r"hydra.launcher: .*slurm"):  # there is none here
        SubmititExecutor(Submitit(folder=str(tmp_path / "jobs")), Console())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\n")  # by which submitit tells that there is a SLURM
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    executor = SubmititExecutor(Submitit(folder=str(tmp_path / "jobs")), Console())
    executor.require(Demand(1, 0, 8), "whole")
    with pytest.raises(UserError, match=r"hydra.launcher.gpus=0.5: SLURM gives whole GPUs"):
        executor.require(Demand(1, 0, 0.5), "half")
