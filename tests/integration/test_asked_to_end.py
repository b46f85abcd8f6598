"""Trials that are asked to end while they train: by Ctrl-C in their terminal, by a signal, by ``rft cancel``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rft.study.finished import record_of
from rft.study.ledger import Ledger
from rft.study.rows import Row, State
from tests.integration.harness import OF, TINY, environment, rft, using, wait_until

pytestmark = pytest.mark.assets
LONG = (*OF["ppo"], "algorithm.iterations=400", *TINY, "tracker=none", "study=two")


@dataclass(frozen=True)
class Terminal:
    """A command in a process group of its own, as a shell starts it."""

    process: subprocess.Popen[bytes]
    said: Path
    runs: Path

    def interrupt(self) -> None:
        """Ctrl-C: the whole group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def row(self) -> Row:
        """Of the one trial."""
        (found,) = Ledger(self.runs).rows()
        return found

    @property
    def checkpoints(self) -> list[Path]:
        """Of the one trial, oldest first."""
        return sorted(self.runs.glob("*/checkpoints/*/step-*.ckpt"))


@contextmanager
def training(command: list[str], store: Path, cwd: Path, **more: str) -> Iterator[Terminal]:
    """The command, from the moment at which its trial has a checkpoint."""
    said = cwd / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "rft", "run", *command],
            cwd=cwd,
            env=environment(store, **more),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
    terminal = Terminal(process, said, cwd / "runs" / "two")
    try:
        wait_until(lambda: terminal.checkpoints or process.poll() is not None, 240)
        assert process.poll() is None, said.read_text(encoding="utf-8")
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("way", ["fork", "plain", "alone"])
def test_a_ctrl_c_lets_the_trial_end_with_its_step(way: str, shared: Path, tmp_path: Path) -> None:
    sweep = [] if way == "alone" else ["-m"]
    with training([*sweep, *LONG], shared, tmp_path, RFT_FORK="0" if way == "plain" else "1") as terminal:
        terminal.interrupt()
        code = terminal.process.wait(120)
    said = terminal.said.read_text(encoding="utf-8")
    assert code in ((143,) if way == "alone" else (1, 130)), said
    assert "Traceback" not in said
    assert ("Ctrl-C once more" in said) == (way == "alone")
    assert terminal.row.state is State.interrupted, said
    assert record_of(tmp_path / "runs" / "two" / terminal.row.name)["error"].startswith("interrupted; ")
    wait_until(lambda: not using(shared), 10)


def test_a_second_ctrl_c_ends_it_now(shared: Path, tmp_path: Path) -> None:
    with training([*LONG], shared, tmp_path) as terminal:
        terminal.interrupt()
        wait_until(lambda: b"once more" in terminal.said.read_bytes(), 30)
        terminal.interrupt()
        assert terminal.process.wait(60) != 0
    assert terminal.row.state is State.interrupted, terminal.said.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ask", "state"),
    [
        (lambda terminal, cwd, store: terminal.process.terminate(), State.interrupted),
        (lambda terminal, cwd, store: _cancel(cwd, store), State.cancelled),
    ],
    ids=["terminated", "cancelled"],
)
def test_a_trial_by_itself_ends_when_it_is_asked_to(
    ask: Callable[[Terminal, Path, Path], None], state: State, shared: Path, tmp_path: Path
) -> None:
    with training([*LONG], shared, tmp_path) as terminal:
        ask(terminal, tmp_path, shared)
        assert terminal.process.wait(120) == 143, terminal.said.read_text(encoding="utf-8")
    assert terminal.row.state is state
    assert (terminal.row.owner, terminal.row.attempts) == (None, 1)
    wait_until(lambda: not using(shared), 10)
    if state is State.cancelled:
        assert "nothing to start; 1 cancelled" in rft(["resume", "two"], tmp_path, shared).stderr


def _cancel(cwd: Path, store: Path) -> None:
    outcome = rft(["cancel", "two"], cwd, store)
    assert (outcome.code, outcome.stdout.endswith("is asked to end\n")) == (0, True), outcome
