"""Trials that are asked to end while they train: by Ctrl-C in their terminal, by a signal, by ``rft cancel``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rft.callbacks.trackers.upload import is_uploaded
from rft.study.finished import record_of
from rft.study.ledger import Ledger
from rft.study.rows import Row, State
from rft.study.warm import GRACE
from tests.integration.harness import OF, TINY, environment, rft, tracked, using, wait_until
from tests.wandb_server import Server

pytestmark = pytest.mark.assets
TRACKED = (*OF["ppo"], "algorithm.iterations=400", *TINY, "study=two")
LONG = (*TRACKED, "tracker=none")


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


@pytest.mark.parametrize("way", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("fork", "plain")), "alone"])
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


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["offline", "", "hang"])
def test_a_ctrl_c_ends_the_tracked_run(fault: str, shared: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    mode = "offline" if fault == "offline" else "online"
    surroundings = {"WANDB_MODE": mode, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    try:
        with training([*TRACKED, "tracker=wandb"], shared, tmp_path, **surroundings) as terminal:
            wait_until(lambda: mode == "offline" or server.steps())
            server.fail(fault if mode == "online" else "")
            terminal.interrupt()
            begun = time.monotonic()
            assert terminal.process.wait(120) == 143
            assert time.monotonic() - begun < GRACE, "a launcher would have killed it"
    finally:
        server.close()
    assert terminal.row.state is State.interrupted
    folder = tmp_path / "runs" / "two" / terminal.row.name
    assert record_of(folder)["error"].startswith("interrupted; ")
    (records,) = tracked(folder)
    assert records[-1]["exit"]["exit_code"] == 1
    steps = [one["history"]["item"]["_step"] for one in records if one["type"] == "history"]
    assert steps == sorted(set(steps)) != []
    if mode == "online":
        assert is_uploaded(next(folder.glob("wandb/run-*"))) == (not fault)
        assert ("`rft sync` uploads it" in terminal.said.read_text(encoding="utf-8")) == bool(fault)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_now(shared: Path, tmp_path: Path) -> None:
    with training([*LONG], shared, tmp_path) as terminal:
        terminal.interrupt()
        wait_until(lambda: b"once more" in terminal.said.read_bytes(), 30)
        terminal.interrupt()
        assert terminal.process.wait(60) != 0
    assert terminal.row.state is State.interrupted, terminal.said.read_text(encoding="utf-8")


@pytest.mark.slow
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
    way = f"rft retry two {terminal.row.name}" if state is State.cancelled else "rft resume two"
    assert f"{state.value}; {way} goes on" in terminal.said.read_text(encoding="utf-8")
    assert (terminal.row.owner, terminal.row.attempts) == (None, 1)
    wait_until(lambda: not using(shared), 10)
    if state is State.cancelled:
        assert "nothing to start; 1 cancelled" in rft(["resume", "two"], tmp_path, shared).stderr


def _cancel(cwd: Path, store: Path) -> None:
    outcome = rft(["cancel", "two"], cwd, store)
    assert (outcome.code, outcome.stdout.endswith("is asked to end\n")) == (0, True), outcome


# The first of two processes takes long over a step in which the other waits for it.
TWO = """
import os, sys, time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from rft.strategy import AcceleratorEnum, Config, DistributionEnum, Strategy
from rft.study.trial import ending_when_asked

rank = int(os.environ.get("LOCAL_RANK", "0"))


class Slow(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        if rank == 0 and index == 3:
            Path("slow").touch()
            end = time.monotonic() + 3
            while time.monotonic() < end:
                time.sleep(0.05)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


settings = Config(accelerator=AcceleratorEnum.cpu, distribution=DistributionEnum.ddp, devices=2)
trainer = Strategy(settings).trainer(epochs=1, root=Path("."))
with ending_when_asked():
    try:
        trainer.fit(Slow(), torch.utils.data.DataLoader(torch.ones(200, 2), batch_size=1))
    except BaseException as error:
        if rank == 0:
            print(type(error).__name__, trainer.global_step, flush=True)
        os._exit(7)
"""


@pytest.mark.slow
def test_two_processes_end_with_their_step_though_one_waits_for_the_other(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO, encoding="utf-8")
    env = environment(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "two.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            wait_until(lambda: (tmp_path / "slow").exists() or process.poll() is not None, 120)
            process.terminate()
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (out.split(), process.returncode) == (["SIGTERMException", "4"], 7)
    wait_until(lambda: not using(tmp_path / "store"), 30)


def test_a_trial_whose_settings_have_changed_does_not_go_on_in_its_folder(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "two" / "sft-s0-00000000"
    folder.mkdir(parents=True)
    record = {"status": "failed", "config": {"seed": 0, "sft": {"lr": 0.5}}}
    (folder / "trial.json").write_text(json.dumps(record), encoding="utf-8")
    Ledger(folder.parent)  # made from what the record says
    where = f"hydra.run.dir={folder}"
    outcome = rft(["run", *OF["sft"], *TINY, "tracker=none", "study=two", where], tmp_path, shared)
    assert "the settings of this trial are not those that it was started with" in outcome.error
    assert "sft.lr was 0.5 and is 0.003" in outcome.error
    assert json.loads((folder / "trial.json").read_text(encoding="utf-8")) == record
