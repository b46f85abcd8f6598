"""Local trials without a tracker: ``rft runs ls``, ``show``, ``export``, and ``rft watch`` in a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from rft.config import compose
from rft.study.identity import name_of
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Result, Warm, environment, trial_folder, wait_until

pytestmark = pytest.mark.assets
WIDTH, HEIGHT = 100, 24
OF_PPO = (*OF["ppo"], *TINY, "tracker=none", "seed=0")


def stored(trial: Result, stage: str) -> dict[str, Any]:
    """A manifest of the store."""
    found: dict[str, Any] = json.loads((trial.entry(stage) / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def two_studies(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweep's study, and a copy of its trials alone as another one."""
    cwd = tmp_path_factory.mktemp("two")
    shutil.copytree(sweep.cwd / "runs" / "sweep", cwd / "runs" / "sweep")
    for trial in sweep.trials.values():
        shutil.copytree(trial.folder, cwd / "runs" / "copy" / trial.folder.name)
    return cwd


def test_exported_histories_are_those_of_the_store_to_the_bit(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    files = ["--history", "h.parquet", "--test", "t.parquet"]
    done = warm(["runs", "export", "sweep", "copy", *files], two_studies, sweep.store)
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines()[1] == "t.parquet: 8 rows of 8 of 8 trials"
    frame, table = pd.read_parquet(two_studies / "h.parquet"), pq.read_table(two_studies / "h.parquet")
    for study in ("sweep", "copy"):
        for name, trial in sweep.trials.items():
            own = frame[(frame.study == study) & (frame.trial == trial.folder.name)]
            history, clock = trial.history(), stored(trial, "policy")["cost"].get("clock", [])
            assert len(own) == len(history)
            assert set(own.state) <= {"done"}
            for (_, row), expected, spent in zip(own.iterrows(), history, clock, strict=True):
                assert {key: row[key] for key in expected} == expected
                assert (row["time/seconds"], row["budget/money"]) == (spent["seconds"], spent["money"])
                logged = set(expected) | {"time/seconds", "budget/money"}
                assert all(pd.isna(row[key]) for key in set(frame.columns[6:]) - logged)
            assert (len(history) == 0) == (name == "sft")
    assert table.column_names[:7] == ["study", "trial", "arm", "algorithm", "seed", "state", "step"]


def test_exported_final_tests_are_those_of_the_store_to_the_bit(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    for ending in ("csv", "parquet"):
        done = warm(["runs", "export", "sweep", "--test", f"out/t.{ending}"], two_studies, sweep.store)
        assert done.code == 0, done.stderr
    by_pandas = pd.read_csv(two_studies / "out" / "t.csv")
    by_arrow = pyarrow.csv.read_csv(two_studies / "out" / "t.csv").to_pylist()
    exact = pd.read_parquet(two_studies / "out" / "t.parquet")
    for trial in sweep.trials.values():
        expected = stored(trial, "evaluation")["metrics"]
        assert expected
        for frame in (by_pandas, exact):
            (own,) = (row for _, row in frame.iterrows() if row.trial == trial.folder.name)
            assert {key: own[key] for key in expected} == expected
            assert (own.arm, own.algorithm, own.seed) == tuple(trial.record[k] for k in ("arm", "algorithm", "seed"))
        (plain,) = (row for row in by_arrow if row["trial"] == trial.folder.name)
        assert {key: plain[key] for key in expected} == expected


def test_a_history_in_csv_gives_the_numbers_back(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    done = warm(["runs", "export", "sweep", "--history", "h.csv"], two_studies, sweep.store)
    assert done.code == 0, done.stderr
    frame = pd.read_csv(two_studies / "h.csv")
    for trial in sweep.trials.values():
        own = frame[frame.trial == trial.folder.name].to_dict("records")
        assert [{k: row[k] for k in one} for row, one in zip(own, trial.history(), strict=True)] == trial.history()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "sweep"], "name a file with --history, --test or both"),
        (["export", "sweep", "--test", "t.xlsx"], "t.xlsx: ends in neither .csv nor .parquet"),
        (["export", "swep", "--test", "t.csv"], "did you mean 'sweep'?"),
        (["show", "sweep/ppoo-s0"], "no such trial"),
        (["show", "ppo-s0"], "several trials are called so"),
        (["ls", "sweep", "--sort", "eval/test/gould"], "did you mean 'eval/test/gold'?"),
    ],
)
def test_what_is_not_there_is_refused(
    arguments: list[str], told: str, sweep: Sweep, two_studies: Path, warm: Warm
) -> None:
    if arguments == ["show", "ppo-s0"]:
        arguments = ["show", sweep.trials["ppo"].folder.name]
    done = warm(["runs", *arguments], two_studies, sweep.store)
    assert told in done.error


def test_trials_are_listed_with_their_final_tests(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    done = warm(["runs", "ls", "--json", "--sort", "test/gold"], two_studies, sweep.store)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 8
    gold = [one["metrics"]["eval/test/gold"] for one in found]
    assert gold == sorted(gold, reverse=True)
    for one in found:
        trial = sweep.trials[one["algorithm"]]
        assert one["metrics"] == stored(trial, "evaluation")["metrics"]
        assert one["last"] == (trial.history() or [{}])[-1]
    shown = warm(["runs", "ls", "sweep"], two_studies, sweep.store).stdout
    for trial in sweep.trials.values():
        (line,) = (line for line in shown.splitlines() if line.startswith(trial.folder.name))
        assert "done" in line
        assert f"{stored(trial, 'evaluation')['metrics']['eval/test/gold']:.4g}" in line.split()
    assert not (two_studies / "runs" / "copy" / "ledger.sqlite").exists()  # looking writes nothing


def test_a_trial_is_shown_with_its_curves(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    trial = sweep.trials["ppo"]
    shown = warm(["runs", "show", f"sweep/{trial.folder.name}"], two_studies, sweep.store).stdout
    assert f"training: {len(trial.history())} rows" in shown
    last = trial.history()[-1]
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    for name in ("rollout/reward", "rollout/kl", "train/loss"):
        assert f"{last[name]:.4g}" in lines[name].split()
        assert any(block in lines[name] for block in "▁▂▃▄▅▆▇█")
    assert trial.record["stages"]["policy"]["key"][:16] in lines["policy"]
    assert "algorithm=ppo" in shown
    by_folder = warm(["runs", "show", f"runs/sweep/{trial.folder.name}", "--json"], two_studies, sweep.store)
    assert json.loads(by_folder.stdout)["record"] == trial.record
    assert json.loads(by_folder.stdout)["history"] == trial.history()


def test_a_snapshot_without_a_terminal(sweep: Sweep, two_studies: Path, warm: Warm) -> None:
    for more in ([], ["--until-done"]):
        done = warm(["watch", "sweep", *more], two_studies, sweep.store)
        assert done.code == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert done.stdout.startswith("sweep: 4 done\n")
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("ppo-"))
        assert f"{sweep.trials['ppo'].history()[-1]['rollout/reward']:.4g}" in line.split()
        assert "it has ended" in done.stdout


def test_the_curves_of_a_running_trial_change_no_bit(sweep: Sweep, warm: Warm, shared: Path, tmp_path: Path) -> None:
    """Where they can be written and where they cannot, training comes to what the sweep came to."""
    overrides = [one for one in sweep.overrides if not one.startswith(("algorithm=", "study="))]
    overrides += ["algorithm=ppo", "arm=ppo", "study=one", "tracker=none"]
    blocked = tmp_path / "runs" / "one" / name_of(compose(overrides)) / "curves.jsonl"
    blocked.mkdir(parents=True)
    done = warm(["run", *overrides], tmp_path, shared)
    assert done.code == 0, done.stderr
    trial = Result(blocked.parent, shared)
    assert {"policy", "evaluation"} <= trial.computed
    assert trial.digests == sweep.trials["ppo"].digests
    assert not (sweep.trials["ppo"].folder / "curves.jsonl").exists()  # the history has taken its place


@dataclass
class Screen:
    """A command in a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    text: str = field(default="")

    def read(self, seconds: float) -> bool:
        """Take what is there within some time; whether there was anything."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return False
        try:
            new = os.read(self.terminal, 1 << 16)
        except OSError:  # the other end is closed
            return False
        self.text += new.decode(errors="replace")
        return bool(new)

    def wait_for(self, found: Callable[[str], bool], seconds: float = 120) -> None:
        """Read until the text is as it should be."""
        deadline = time.monotonic() + seconds
        while not found(self.text):
            assert time.monotonic() < deadline, self.text
            assert self.read(1.0) or self.process.poll() is None, self.text

    def end(self, seconds: float = 60) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.read(0.2) or self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
        return self.process.wait()


def _in_front() -> None:
    """Be the job in the foreground of the terminal; one in the background has Ctrl-C ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def screen(arguments: Sequence[str], cwd: Path, store: Path) -> Iterator[Screen]:
    """``rft …`` in a pseudo-terminal that is its controlling one, as a shell starts it."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    env = environment(store, COLUMNS=None, LINES=None, TERM="xterm-256color")
    process = subprocess.Popen(
        [sys.executable, "-m", "rft", *arguments],
        cwd=cwd,
        env=env,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=_in_front,
    )
    os.close(child)
    try:
        yield Screen(process, parent)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)


@pytest.fixture
def long_trial(shared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A trial of the study ``two`` that trains for minutes, from the moment at which there is a row."""
    overrides = [one for one in OF_PPO if not one.startswith("algorithm.iterations")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rft", "run", *overrides, "algorithm.iterations=400", "arm=ppo", "study=two"],
        cwd=tmp_path,
        env=environment(shared),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: process.poll() is None and list(tmp_path.glob("runs/two/*/curves.jsonl")), 240)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_running_trial_is_watched_in_a_terminal(
    long_trial: subprocess.Popen[bytes], shared: Path, tmp_path: Path
) -> None:
    folder = trial_folder(tmp_path, "ppo", study="two")
    with screen(["watch", "two", "--every", "0.2"], tmp_path, shared) as shown:
        shown.wait_for(lambda text: "two: 1 running" in text and "▁" in text and "step" in text)
        seen = len(shown.text)
        shown.wait_for(lambda text: text.count("two: 1 running") > 3 and len(text) > seen)
        os.write(shown.terminal, b"\x03")
        assert shown.end() == 0
        assert shown.text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in shown.text[-40:]  # the cursor is back
    assert long_trial.poll() is None  # Ctrl-C was for the watch
    wait_until(lambda: (folder / "curves.jsonl").read_text(encoding="utf-8"))
    lines = (folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"step", "rollout/reward", "train/loss"} <= json.loads(lines[0]).keys()
    with screen(["watch", "two", "--every", "0.2", "--until-done"], tmp_path, shared) as shown:
        shown.wait_for(lambda text: "two: 1 running" in text)
        long_trial.send_signal(signal.SIGINT)
        assert shown.end(120) == 1  # it did not end well
        assert "two: 1 interrupted" in shown.text
        assert "rft resume two goes on" in shown.text


def test_a_watch_until_done_ends_by_itself(warm: Warm, shared: Path, tmp_path: Path) -> None:
    warm.start(["run", *OF_PPO, "arm=ppo", "study=three"], tmp_path, shared)
    wait_until(lambda: (tmp_path / "runs" / "three" / "ledger.sqlite").exists(), 120)
    with screen(["watch", "three", "--every", "0.2", "--until-done"], tmp_path, shared) as shown:
        assert shown.end(240) == 0
        assert "three: 1 done" in shown.text
        assert "it has ended" in shown.text
    assert warm.wait().code == 0
