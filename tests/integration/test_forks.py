"""A study's jobs as forks: they are what plain processes are, end alone, and leave nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rft.config.launchers import Local
from rft.study import forks
from rft.study.executors.local import SWITCH, LocalExecutor
from rft.study.forks import SUPPORTED, Forked, server_started
from rft.study.jobs import AHEAD, Job
from rft.study.launch import Launcher, Process
from rft.study.ledger import Ledger
from rft.study.slots import Demand, Grant, Machine
from rft.study.sweep import SweepTrial, run_sweep
from tests.integration.harness import OF, REPOSITORY, Result, alive, environment, rft, study, using, wait_until

ONE = Grant(Demand(1, gpus=None))
pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="jobs are forked on Linux alone"),
    pytest.mark.xdist_group(__name__),
]

# A task from another package, built where a trial begins, which does what the job asks of it.
PROBE = '''
import gc, json, os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path

from rft.tasks.imdb_sentiment import Config as ImdbConfig
from rft.tasks.imdb_sentiment import ImdbSentiment


@dataclass
class Config(ImdbConfig):
    act: str = ""
    place: str = ""


class Probe(ImdbSentiment):
    def __init__(self, config, store):
        print("acts", config.act, flush=True)
        getattr(self, config.act)(Path(config.place))
        sys.exit(0)

    def nothing(self, place):
        pass

    def leave(self, place):
        print("last words")
        sys.exit(3)

    def die(self, place):
        os.kill(os.getpid(), signal.SIGKILL)

    def meet(self, place):
        """Come back when two are there."""
        place.mkdir(exist_ok=True)
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < 2:
            time.sleep(0.01)

    def wait(self, place):
        """Until SIGTERM comes."""
        def asked(*_):
            place.with_suffix(".asked").touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, asked)
        beside = place.with_suffix(".new")
        beside.write_text(str(os.getpid()))
        beside.rename(place)
        time.sleep(300)

    def look(self, place):
        import __main__
        import pandas, sklearn.linear_model, torch
        import pyarrow as pa
        from threadpoolctl import threadpool_info
        pools = {(os.path.basename(p["filepath"]), p["num_threads"]) for p in threadpool_info()}
        own = "RFT_", "OMP_", "MKL_", "OPENBLAS_", "TQDM_", "TOKEN", "PYTORCH", "WANDB", "GLIBC"
        ours = lambda name: name.startswith(own)
        found = {
            "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), pa.cpu_count(), sorted(pools)],
            "environment": {k: v for k, v in sorted(os.environ.items()) if ours(k)},
            "command": [sys.argv, __main__.__spec__.name, sys.path, os.getcwd()],
            "signals": [getattr(at, "__qualname__", str(at)) for at in map(signal.getsignal, (2, 13, 15, 17))],
            "masked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
            "streams": [os.readlink("/proc/self/fd/0"), sys.stdout.line_buffering, sys.stderr.line_buffering,
                        sys.stdout.encoding, os.fstat(1).st_ino == os.fstat(2).st_ino],
            "collects": gc.isenabled(),
            "client": "openai" in sys.modules,
        }
        place.write_text(json.dumps(found, indent=1))
'''
RUN = ("model=tiny", "tracker=none", "task._target_=probe.Probe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with the package of the probe beside it."""
    folder = tmp_path_factory.mktemp("forks")
    (folder / "probe.py").write_text(PROBE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder / "store", RFT_THREADS=None).items():
            patch.setenv(name, value)
        patch.delenv("RFT_THREADS", raising=False)
        patch.setenv("PYTHONPATH", f"{REPOSITORY}:{folder}")
        patch.setenv("RFT_ALLOWED_PACKAGES", "probe")
        patch.delenv(SWITCH, raising=False)
        patch.delenv("GLIBC_TUNABLES", raising=False)
        patch.chdir(folder)
        yield folder


def job(folder: Path, name: str, act: str, at: str = "place") -> Job:
    return Job(name, (*RUN, f"+task.act={act}", f"+task.place='{folder / at}'"), folder / "runs" / name)


@pytest.fixture(scope="module")
def launcher(place: Path) -> Iterator[Launcher]:
    with Launcher(Console(file=io.StringIO(), width=500)) as made:
        yield made


def said(launcher: Launcher) -> str:
    assert isinstance(launcher.console.file, io.StringIO)
    return launcher.console.file.getvalue()


class TestOneServer:
    def test_a_fork_has_the_surroundings_of_a_plain_process(
        self, launcher: Launcher, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look, found = job(tmp_path, "look", "look", "seen.json"), []
        for way in (Forked, subprocess.Popen):
            process: Process = launcher.start(look, Grant(Demand(2, gpus=None)))
            assert isinstance(process, way)
            assert process.wait(120) == 0, look.log.read_text(encoding="utf-8")
            found.append(json.loads((tmp_path / "seen.json").read_text(encoding="utf-8")))
            found[-1]["environment"].pop(SWITCH, None)
            monkeypatch.setenv(SWITCH, "0")
        assert found[0] == found[1]
        assert found[0]["threads"][0] == 2
        assert not found[0]["client"], "few trials ask an endpoint, and its client takes half a second"
        assert isinstance(launcher.executor, LocalExecutor)
        assert launcher.executor.forks is not None
        server = Path(f"/proc/{launcher.executor.forks.pid}/environ").read_bytes()
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in server.split(b"\0")
        assert found[0]["environment"]["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"

    @pytest.mark.parametrize(
        ("act", "code", "line"),
        [("nothing", 0, "acts nothing"), ("leave", 3, "last words"), ("die", -signal.SIGKILL, "acts die")],
    )
    def test_a_job_ends_as_it_ends(self, launcher: Launcher, tmp_path: Path, act: str, code: int, line: str) -> None:
        assert launcher.start(job(tmp_path, act, act), ONE).wait(60) == code
        assert (tmp_path / "runs" / act / "log.txt").read_text(encoding="utf-8").splitlines()[-1] == line

    def test_jobs_run_at_once_and_fail_alone(self, launcher: Launcher, tmp_path: Path) -> None:
        refused = Job("refused", ("algorithm=ppo", "algorithm.clip_rang=2"), tmp_path / "runs" / "refused")
        acts = {"one": "meet", "two": "meet", "dead": "die", "left": "leave"}
        jobs = [refused, *(job(tmp_path, name, act, "meeting") for name, act in acts.items())]
        failed = launcher.run(jobs, 2, "jobs")
        assert set(failed) == {"refused", "dead", "left"}
        assert "did you mean 'clip_range'?" in failed["refused"]
        assert failed["dead"].startswith("killed by signal 9")
        assert failed["left"] == "ended by itself with exit code 3"

    def test_only_what_trials_wait_for_makes_more_ahead(self, launcher: Launcher, tmp_path: Path) -> None:
        for seed, asked in ((None, "1"), (0, None)):
            look = replace(job(tmp_path, f"seed {seed}", "look", "seen.json"), seed=seed)
            assert launcher.start(look, ONE).wait(60) == 0
            seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
            assert seen["environment"].get(AHEAD) == asked

    def test_a_job_that_may_not_fork_starts_plainly(self, launcher: Launcher, tmp_path: Path) -> None:
        with server_started():
            (early,) = forks._early
            process = launcher.start(Job("plain", ("algorithm.no=1",), tmp_path, forks=False), ONE)
            assert isinstance(process, subprocess.Popen)
            assert process.wait(60) == 2
            assert early.gone, "a server that is there too early would stand beside plain jobs"


@pytest.mark.slow
def test_with_the_server_go_its_jobs_and_the_others_start_plainly(place: Path, tmp_path: Path) -> None:
    lost, refused = job(tmp_path, "lost", "wait", "pid"), Job("refused", ("algorithm.no=1",), tmp_path / "refused")
    lost.folder.mkdir(parents=True)
    (lost.folder / "trial.json").write_text(json.dumps({"status": "done"}), encoding="utf-8")

    def kill() -> None:
        wait_until((tmp_path / "pid").exists)
        assert launcher.executor.forks is not None
        os.kill(launcher.executor.forks.pid, signal.SIGKILL)

    with Launcher(Console(file=io.StringIO(), width=500)) as launcher:
        killer = threading.Thread(target=kill)
        killer.start()
        failed = launcher.run([lost, refused], 1, "jobs")
        killer.join()
    assert "ended with exit code -9, and this job with it; start it again" in failed["lost"]
    assert "no such key" in failed["refused"]
    assert said(launcher).count("jobs start as plain processes from here on") == 1
    assert json.loads((lost.folder / "trial.json").read_text(encoding="utf-8"))["status"] == "failed"
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    wait_until(lambda: not alive(pid))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError('planted')", "ImportError: planted"),
        pytest.param(
            "import threading, time; threading.Thread(target=time.sleep, args=(99,), name='busy', daemon=True).start()",
            "busy",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_server_that_cannot_serve_costs_no_job(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    (tmp_path / "krippendorff.py").write_text(module, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    with Launcher(Console(file=io.StringIO(), width=500)) as launcher:
        failed = launcher.run([Job("refused", ("algorithm.no=1",), tmp_path / "refused")], 1, "jobs")
        fine = launcher.start(job(tmp_path, "fine", "nothing"), ONE)
        assert isinstance(fine, subprocess.Popen)
        assert fine.wait(60) == 0
    assert "no such key" in failed["refused"]
    assert words in said(launcher)


@pytest.mark.slow
def test_a_thread_that_comes_later_costs_no_job(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "import signal, threading, time\n"
        "late = lambda *_: threading.Thread(target=time.sleep, args=(99,), name='late', daemon=True).start()\n"
        "signal.signal(signal.SIGUSR1, late)\n"
    )
    (tmp_path / "krippendorff.py").write_text(module, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    with Launcher(Console(file=io.StringIO(), width=500)) as launcher:
        runs = launcher.start(job(tmp_path, "runs", "wait", "pid"), ONE)
        assert isinstance(runs, Forked)
        wait_until(lambda: runs.poll() is not None or (tmp_path / "pid").exists())
        server = launcher.executor.forks
        assert server is not None
        os.kill(server.pid, signal.SIGUSR1)
        wait_until(lambda: len(list(Path(f"/proc/{server.pid}/task").iterdir())) > 1)
        refused = launcher.start(job(tmp_path, "refused", "nothing"), ONE)
        assert isinstance(refused, Forked)
        wait_until(lambda: refused.poll() is not None)
        assert (refused.pid, "late" in refused.lost) == (None, True)
        assert launcher.run([job(tmp_path, "plain", "nothing")], 1, "jobs") == {}
        assert "acts nothing" in (tmp_path / "runs" / "plain" / "log.txt").read_text(encoding="utf-8")
        assert (runs.poll(), server.gone) == (None, "")


@pytest.mark.slow
def test_a_trial_of_a_sweep_that_fails_ends_alone(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RFT_THREADS", raising=False)
    trials = [
        SweepTrial(job(tmp_path, "left", "leave"), {"threads": 1}),
        SweepTrial(job(tmp_path, "look", "look", "seen.json"), {"threads": 2}),
    ]
    assert run_sweep(trials, Local()) == ["left"]
    said = capfd.readouterr()
    assert [line for line in said.out.splitlines() if line in ("last words", "acts look")] == [
        "last words",
        "acts look",
    ]
    for words in ("[0] left", "failed left: ended by itself with exit code 3", "    last words", "[1] look"):
        assert words in said.err
    # Each has the threads that it would have had by itself.
    assert json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))["environment"]["RFT_THREADS"] == "2"


@pytest.mark.parametrize(
    ("number", "code", "switch"),
    [
        (signal.SIGINT, 128 + signal.SIGINT, "1"),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, "1", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "1", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, "0", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "0", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_study_leaves_no_process(
    place: Path, tmp_path: Path, number: signal.Signals, code: int, switch: str
) -> None:
    where = study(
        tmp_path / "study",
        overrides=[*RUN, "+task.act=wait", f"+task.place='{tmp_path / 'pid'}'"],
    )
    store = tmp_path / "store"
    started = subprocess.Popen(
        [sys.executable, "-m", "rft", "compare", str(where)],
        cwd=tmp_path,
        env=dict(os.environ) | {"RFT_STORE": str(store), SWITCH: switch},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell starts what runs in the background, and so all below it, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until((tmp_path / "pid").exists, 240)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    assert {started.pid, pid} < set(using(store)) if switch == "1" else {started.pid, pid} == set(using(store))
    started.send_signal(number)
    assert started.wait(60) == code
    wait_until(lambda: not using(store))
    # It was asked to end before it was made to, but if nobody was left to ask.
    assert (tmp_path / "pid.asked").exists() == (number != signal.SIGKILL or switch == "1")


@pytest.mark.slow
def test_an_interrupt_before_the_server_is_ready_is_quick(place: Path, tmp_path: Path) -> None:
    with Launcher(Console(file=io.StringIO(), width=500)) as launcher:
        process = launcher.start(job(tmp_path, "early", "wait", "pid"), ONE)
        began = time.monotonic()
        process.terminate()
        assert (process.wait(10), process.lost, process.unborn) == (-signal.SIGTERM, "", False)
        assert time.monotonic() - began < 2
        assert not (tmp_path / "pid").exists()
        later = launcher.start(job(tmp_path, "later", "nothing"), ONE)  # a sweep whose first trial is taken back
        assert isinstance(later, Forked)
        assert later.wait(120) == 0


def test_all_that_is_cancelled_before_the_server_is_ready_never_begins(place: Path, tmp_path: Path) -> None:
    study = tmp_path / "runs"
    work = [replace(job(tmp_path, f"a-s{n}-00000000", "nothing"), arm="a", seed=n) for n in range(3)]

    def cancel() -> None:
        ledger = Ledger(study)
        wait_until(lambda: [row.state.value for row in ledger.rows()] == ["running"] * 3, 20)
        ledger.cancel([row.name for row in ledger.rows()])

    asking = threading.Thread(target=cancel)
    asking.start()
    with Launcher(Console(file=io.StringIO(), width=500), study) as launcher:
        launcher.executor.slots.machine = Machine(4)
        launcher.run(work, 0, "trials")
    asking.join()
    assert [row.state.value for row in Ledger(study).rows()] == ["cancelled"] * 3
    assert not [one.log for one in work if one.log.exists() and one.log.read_text(encoding="utf-8")]


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_of_forks_computes_the_same_bits(fresh: Path, tmp_path: Path) -> None:
    where = study(tmp_path / "study", arms={name: OF[name] for name in ("ppo",)}, jobs=1)  # all cores a job
    digests = []
    for switch in ("0", "1"):
        store, cwd = tmp_path / f"store-{switch}", tmp_path / switch
        cwd.mkdir()
        subprocess.run(["cp", "-r", fresh, store], check=True)
        outcome = rft(["compare", str(where)], cwd, store, **{SWITCH: switch})
        assert outcome.code == 0, outcome.stderr
        trials = [Result(file.parent, store) for file in sorted((cwd / "runs" / "study").rglob("trial.json"))]
        assert len(trials) == 1
        digests.append([trial.digests for trial in trials])
    assert digests[0] == digests[1]
