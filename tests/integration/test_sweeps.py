"""A study whose launcher is killed is resumed: what is done is not done again, what is changed is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from rft.store import Entry, Store
from rft.store.names import TRIAL
from rft.study.finished import record_of
from rft.study.ledger import Ledger
from rft.study.rows import Row, State
from tests.integration.building import Building
from tests.integration.harness import (
    OF,
    REPOSITORY,
    TINY,
    Warm,
    environment,
    rft,
    study,
    trial_folder,
    using,
    wait_until,
)

pytestmark = pytest.mark.assets


@pytest.mark.slow
def test_a_killed_study_is_resumed_and_a_changed_one_refused(shared: Path, warm: Warm, tmp_path: Path) -> None:
    arms = {"sft": OF["sft"], "long": [*OF["ppo"], "algorithm.iterations=20"]}
    where = study(tmp_path / "small", arms=arms, jobs=1)
    command = [sys.executable, "-m", "rft", "compare", str(where)]
    silent = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=tmp_path, env=environment(shared), stdout=silent, stderr=silent)
    runs = tmp_path / "runs" / "small"
    wait_until(lambda: list(runs.glob("long-s0-*/checkpoints/*/step-*.ckpt")), 240)
    started.kill()
    started.wait()
    wait_until(lambda: [row.state.value for row in Ledger(runs).rows() if row.is_trial] == ["done", "interrupted"])
    record = (trial_folder(tmp_path, "sft", study="small") / "trial.json").read_bytes()

    study(where, arms=arms, seeds=[0, 1])
    refused = warm(["resume", "small"], tmp_path, shared).error
    assert "seeds was [0] and is [0, 1]; run it as it is now with rft compare" in refused
    study(where, arms=arms, jobs=1)

    outcome = warm(["resume", "small"], tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    assert "trials: 2 done" in outcome.stderr
    found = json.loads(warm(["status", "small", "--json"], tmp_path, shared).stdout)
    assert [(row["arm"], row["state"], row["attempts"]) for row in found] == [("sft", "done", 1), ("long", "done", 2)]
    assert (trial_folder(tmp_path, "sft", study="small") / "trial.json").read_bytes() == record


@pytest.mark.slow
def test_a_sweep_goes_on_past_a_failure_which_is_retried(shared: Path, tmp_path: Path) -> None:
    far = "algorithm.lr=5e-4,1e30"
    command = ["run", "-m", *OF["dpo"], far, "study=far", "tracker=none", *TINY]
    outcome = rft(command, tmp_path, shared)
    assert outcome.code == 2
    assert "1 trials of the sweep did not end well: " in outcome.stderr.splitlines()[-1]
    assert "trials: 1 done, 1 failed" in outcome.stderr
    (bad,) = [row for row in Ledger(tmp_path / "runs" / "far").rows() if row.state.value == "failed"]
    assert "at step" in (bad.error or "")
    assert "nothing to start" in rft(["resume", "far"], tmp_path, shared).stderr
    again = rft(["retry", "far"], tmp_path, shared)
    assert again.code == 2
    rows = {row.state.value: row.attempts for row in Ledger(tmp_path / "runs" / "far").rows() if row.is_trial}
    assert rows == {"done": 1, "failed": 2}


# An algorithm from another package: DPO, but for three trials of a sweep.
TROUBLE = '''
import os, resource
from dataclasses import dataclass

import torch

from rft.algorithms.dpo import DPO
from rft.algorithms.dpo import Config as DPOConfig


@dataclass
class Config(DPOConfig):
    number: int = 0
    """Which trial of the sweep it is."""


class Trouble(DPO):
    def loss(self, batch):
        if self.trainer.global_step >= 2:
            {3: self.leave, 9: self.fail, 15: self.fill}.get(self.config.number, lambda: None)()
        return super().loss(batch)

    def leave(self):
        os.write(1, b"last words\\n")
        os._exit(3)

    def fail(self):
        raise RuntimeError("planted")

    def fill(self):
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28,) * 2)
        self.kept = []
        while True:
            self.kept.append(torch.ones(2**22))
'''
SHORT = ("algorithm=dpo", "algorithm.pairs_per_step=4", "algorithm.epochs=1")
JOBS = ("hydra.launcher.jobs=2",)
BAD = {3: "last words", 9: "planted", 15: "allocate memory"}
TRIALS = 24


def raw(runs: Path) -> dict[str, str]:
    """The states of all trials as the file has them, whoever is alive; none before there is a ledger."""
    try:
        with closing(sqlite3.connect(f"file:{runs / 'ledger.sqlite'}?mode=ro", uri=True, timeout=60)) as ledger:
            return dict(ledger.execute("SELECT name, state FROM trials"))
    except sqlite3.OperationalError:
        return {}


class Sweep:
    """A sweep whose launchers and trials are killed."""

    def __init__(self, cwd: Path, env: dict[str, str]) -> None:
        self.cwd, self.env, self.runs = cwd, env, cwd / "runs" / "many"
        self.cut: Counter[str] = Counter()
        """How often each trial ran when it, or its launcher, was killed."""
        self.random = random.Random(6)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.cwd / "launchers.txt").open("ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "rft", *arguments], cwd=self.cwd, env=self.env, stdout=log, stderr=log
            )

    def wait_for(self, ended: int, launcher: subprocess.Popen[bytes], *, training: bool = False) -> None:
        """Until so many have ended and another one runs: till one trains, or a while longer."""

        def reached() -> bool:
            states = Counter(raw(self.runs).values())
            assert launcher.poll() is None, (self.cwd / "launchers.txt").read_text(encoding="utf-8")[-3000:]
            time.sleep(0.05)
            there = states["done"] + states["failed"] >= ended and states["running"] > 0
            return there and (not training or any((self.store / "tmp").glob("policy.*")))

        wait_until(reached, 1200)
        if not training:
            time.sleep(self.random.random())

    def running(self) -> list[str]:
        return [name for name, state in raw(self.runs).items() if state == "running"]

    def kill(self, launcher: subprocess.Popen[bytes]) -> None:
        launcher.kill()
        launcher.wait()
        self.cut.update(self.running())

    def kill_a_trial(self) -> str:
        """SIGKILL to one that runs, as soon as the ledger knows its process."""
        found: list[tuple[str, int]] = []

        def one_runs() -> bool:
            time.sleep(0.05)
            rows = [row for row in Ledger(self.runs).rows() if row.state is State.running and row.pid]
            found.extend((row.name, int(row.pid or 0)) for row in rows if int(row.pid or 0) in using(self.store))
            return bool(found)

        wait_until(one_runs, 600)
        name, pid = found[0]
        self.cut[name] += 1
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: raw(self.runs)[name] != "running", 60)
        return name

    @property
    def store(self) -> Path:
        return Path(self.env["RFT_STORE"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_is_killed_and_killed_again_and_ends_as_one_left_alone(fresh: Path, tmp_path: Path) -> None:
    building = Building(tmp_path / "packages")
    (building.folder / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    path = f"{REPOSITORY}{os.pathsep}{building.folder}"
    sweep = Sweep(tmp_path, environment(fresh, PYTHONPATH=path, RFT_ALLOWED_PACKAGES="trouble"))
    trouble = ("algorithm._target_=trouble.Trouble", f"+algorithm.number=range(0,{TRIALS})")
    launcher = sweep.start("run", "-m", *SHORT, *trouble, "study=many", "tracker=none", *JOBS, *TINY)
    sweep.wait_for(4, launcher, training=True)
    sweep.kill(launcher)
    launcher = sweep.start("resume", "many", "--jobs", "2")
    sweep.wait_for(8, launcher)
    killed = sweep.kill_a_trial()
    sweep.wait_for(12, launcher)
    sweep.kill(launcher)
    launcher = sweep.start("resume", "many", "--jobs", "2")
    sweep.wait_for(18, launcher, training=True)
    sweep.kill(launcher)
    assert sweep.start("resume", "many", "--jobs", "2").wait() in (0, 2)  # 2 if it was the one that met a bad trial

    rows = {row.name: row for row in Ledger(sweep.runs).rows() if row.is_trial}
    print(f"{len(rows)} trials, {Counter(row.state.value for row in rows.values())}; {killed} was killed")
    print(f"started {sum(row.attempts for row in rows.values())} times; cut off: {dict(sweep.cut)}")
    assert len(rows) == TRIALS
    asked = {f"+algorithm.number={number}": words for number, words in BAD.items()}
    bad = {name: asked[one] for name, row in rows.items() for one in row.overrides if one in asked}
    assert {name for name, row in rows.items() if row.state is State.failed} == set(bad)
    assert {name for name, row in rows.items() if row.state is State.done} == rows.keys() - bad.keys()
    for name, words in bad.items():
        assert words in str(rows[name].error)
    # What was started more than once was cut off as often.
    assert {name: row.attempts - 1 for name, row in rows.items() if row.attempts > 1 + sweep.cut[name]} == {}
    assert_folders_agree(sweep.runs, rows, fresh)
    assert len({row.versions for row in rows.values() if row.state is State.done}) == 1

    # Every entry was made once; what began more often was cut off by a kill, or is the training of a bad trial.
    begun, made, cut_off = building.begun, building.made, building.cut_off
    print(f"{len(begun)} entries: begun {begun.total()} times, made {made.total()} times; cut off: {cut_off}")
    assert set(made.values()) == {1}
    assert len(begun.keys() - made.keys()) == len(bad)
    assert {stage for stage, _ in begun.keys() - made.keys()} == {"policy"}
    assert len(cut_off) <= sweep.cut.total() + len(bad)
    # What a process leaves that ended amid a build lies there until `rft store gc`, if nobody builds it again.
    assert len(list((fresh / "tmp").iterdir())) <= 1
    assert Counter(stage for stage, _ in made)["policy"] == TRIALS - len(bad)
    assert Counter(stage for stage, _ in made)["reward_model"] <= 1

    before = Ledger(sweep.runs).rows(), building.begun
    again = subprocess.run(
        [sys.executable, "-m", "rft", "resume", "many"],
        cwd=tmp_path, env=sweep.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "nothing to start" in again.stderr
    assert (Ledger(sweep.runs).rows(), building.begun) == before


def assert_folders_agree(runs: Path, rows: Mapping[str, Row], store: Path) -> None:
    """Of every trial there is a folder, and of nothing else; what is done left its results, what failed says so."""
    assert {path.name for path in runs.iterdir() if TRIAL.fullmatch(path.name)} == set(rows)
    for name, row in rows.items():
        record = record_of(runs / name)
        if row.state is State.done:
            assert record["status"] == "done"
            assert isinstance(Store(store).inspect("evaluation", record["evaluation"]), Entry)
            assert (record["arm"], record["seed"], record["versions"]) == (row.arm, row.seed, row.versions)
        else:
            assert record.get("status") in (None, "failed")  # os._exit leaves no record


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eight_processes_do_the_work_of_a_study_once(fresh: Path, tmp_path: Path) -> None:
    building = Building(tmp_path / "packages")
    env = environment(fresh, PYTHONPATH=f"{REPOSITORY}{os.pathsep}{building.folder}")
    where = study(tmp_path / "once", arms={"sft": OF["sft"], "dpo": OF["dpo"]}, seeds=[0, 1], jobs=2)
    command = [sys.executable, "-m", "rft", "compare", str(where), "tracker=none"]
    streams = [(tmp_path / f"{n}.out", tmp_path / f"{n}.err") for n in range(8)]
    processes = []
    for out, err in streams:
        with out.open("wb") as stdout, err.open("wb") as stderr:
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=stdout, stderr=stderr))
    codes = [process.wait() for process in processes]
    assert codes == [0] * 8, "\n".join(err.read_text(encoding="utf-8")[-1500:] for _, err in streams)
    rows = Ledger(tmp_path / "runs" / "once").rows()
    print(f"exit codes {codes}; attempts { {row.name: row.attempts for row in rows} }")
    assert {row.state for row in rows} == {State.done}
    assert [row.attempts for row in rows if row.is_trial] == [1] * 4
    assert set(building.made.values()) == {1}
    assert building.begun == building.made
    assert len({out.read_text(encoding="utf-8") for out, _ in streams}) == 1
    print(streams[0][0].read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_launcher_takes_the_processes_of_a_distributed_trial_along(shared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rft", "run", "-m", *OF["ppo"], "algorithm.iterations=1000", "strategy=ddp"]
    launcher = subprocess.Popen(
        [*command, *TINY, "tracker=none", "study=two"],
        cwd=tmp_path, env=environment(shared), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: list((tmp_path / "runs" / "two").glob("*/checkpoints/*/step-*.ckpt")), 900)
    assert len(using(shared, "LOCAL_RANK=1")) == 1
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not using(shared), 30)
    wait_until(lambda: Ledger(tmp_path / "runs" / "two").rows()[0].state is State.interrupted, 30)
    assert Ledger(tmp_path / "runs" / "two").rows()[0].attempts == 1


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_in_training_goes_on(shared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rft", "run", "-m", *OF["ppo"], "algorithm.iterations=60", "study=two"]
    with (tmp_path / "said").open("wb") as said:
        launcher = subprocess.Popen(
            [*command, *TINY, "tracker=none"],
            cwd=tmp_path,
            env=environment(shared),
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        runs = tmp_path / "runs" / "two"
        wait_until(lambda: list(runs.glob("*/checkpoints/*/step-*.ckpt")), 240)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(120) != 0
    (row,) = Ledger(runs).rows()
    assert (row.state, row.attempts) == (State.interrupted, 1), (tmp_path / "said").read_text()
    outcome = rft(["resume", "two"], tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    (row,) = Ledger(runs).rows()
    assert (row.state, row.attempts) == (State.done, 2)
