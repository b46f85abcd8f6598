"""Starts ``rft`` as a real process and reads what it left: records, store entries, streams."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.study.forks import Forked, Forks

REPOSITORY = Path(__file__).parents[2]

# The smallest settings with which every stage still has something to do.
TINY = (
    "model=tiny",
    "model.hidden_size=32",
    "model.layers=1",
    "strategy.precision=fp32",
    "strategy.threads=1",
    "strategy.checkpoint_share=1",  # after every epoch, so that a test can wait for one
    "task.train_prompts=32",
    "task.validation_prompts=4",
    "task.test_prompts=6",
    "task.ood_prompts=4",
    "task.sft_examples=64",
    "task.sft_validation_examples=8",
    "task.response_tokens=10",
    "task.gold_fit_reviews=300",
    "task.gold_heldout_reviews=100",
    "sft.lr=3e-3",
    "audit.pairs=0",
)
# On top of TINY, what the default study has: adapters in the upper layers, frozen layers below them, half precision.
LORA = (
    "model.layers=2",
    "model.lora.enabled=true",
    "model.lora.rank=4",
    "model.lora.top_layers=1",
    "strategy.precision=bf16",
)
# Of a revised start, what keeps it small.
REVISED = (
    "start.questions=16",
    "start.critique_tokens=6",
    "start.revision_tokens=8",
    "start.batch_size=8",
    "start.epochs=6",
    "start.lr=1e-2",
)
ON_POLICY = (
    "algorithm.iterations=3",
    "algorithm.prompts_per_iteration=8",
    "algorithm.minibatches=2",
    "algorithm.epochs=2",
)
OF = {
    "sft": ("algorithm=sft",),
    "ppo": ("algorithm=ppo", *ON_POLICY),
    "dpo": ("algorithm=dpo", "algorithm.pairs_per_step=4", "algorithm.epochs=4"),
    "rlaif": ("algorithm=rlaif", *ON_POLICY),
    "rlaif_online": ("algorithm=rlaif_online", *ON_POLICY),
    "kto": ("algorithm=kto", "algorithm.pairs_per_step=4", "algorithm.epochs=4"),
}


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that a refusal is."""
        lines = self.stderr.strip().splitlines()
        assert len(lines) == 1, self.stderr
        assert self.code == 2, (self.code, self.stderr)
        return lines[0]


def environment(store: Path, **more: str | None) -> dict[str, str]:
    """This process's environment with a store of the test's own and nothing that decides a trial from outside.

    What `more` has as None is taken out.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RFT_", "WANDB_DATA", "WANDB_CACHE"))}
    one = {"OMP_NUM_THREADS": "1", "RFT_THREADS": "1"}
    own = {"RFT_STORE": str(store), "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return {name: value for name, value in (kept | one | own | more).items() if value is not None}


def rft(arguments: Sequence[str], cwd: Path, store: Path, **more: str | None) -> Outcome:
    """``python -m rft …`` from nothing: imports and all."""
    return _cold([sys.executable, "-m", "rft", *arguments], cwd, environment(store, **more))


def script(arguments: Sequence[str], cwd: Path, store: Path, **more: str | None) -> Outcome:
    """The installed ``rft …`` from nothing."""
    return _cold([str(Path(sys.executable).with_name("rft")), *arguments], cwd, environment(store, **more))


def _cold(command: Sequence[str], cwd: Path, env: dict[str, str]) -> Outcome:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


class Warm:
    """Forks ``rft`` processes from one that has imported everything, as the trials of a study are."""

    def __init__(self, scratch: Path, **more: str | None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch, self.more, self.count = scratch, more, 0
        self._forks = Forks(environment(scratch / "no-store", **more))
        self._last: Forked | None = None

    def start(self, arguments: Sequence[str], cwd: Path, store: Path, **more: str | None) -> int:
        """Start a process; returns its id."""
        self.count += 1
        out, err = self._streams()
        own = environment(store, **{**self.more, **more})
        self._last = job = self._forks.start(arguments, cwd=cwd, environment=own, stdout=out, stderr=err)
        while job.pid is None:
            assert not job.lost, job.lost
            self._forks.listen(60.0)
        return job.pid

    @property
    def running(self) -> bool:
        """Whether the process that was started last still runs."""
        assert self._last is not None
        return self._last.poll() is None

    def wait(self) -> Outcome:
        """How the process that was started last ended."""
        assert self._last is not None
        code = self._last.wait()
        assert not self._last.lost, self._last.lost
        return Outcome(code, *(path.read_text(encoding="utf-8") for path in self._streams()))

    def kill(self) -> None:
        """SIGKILL to the process that was started last, if it still runs."""
        assert self._last is not None
        self._last.kill()

    def __call__(self, arguments: Sequence[str], cwd: Path, store: Path, **more: str | None) -> Outcome:
        """Start and wait."""
        self.start(arguments, cwd, store, **more)
        return self.wait()

    def close(self) -> None:
        """End the server."""
        self._forks.close()

    def _streams(self) -> tuple[Path, Path]:
        return self.scratch / f"{self.count}.out", self.scratch / f"{self.count}.err"


@dataclass(frozen=True)
class Result:
    """A finished trial: its folder, its record, and the store that it used."""

    folder: Path
    store: Path

    @property
    def record(self) -> dict[str, Any]:
        """``trial.json``."""
        found: dict[str, Any] = json.loads((self.folder / "trial.json").read_text(encoding="utf-8"))
        return found

    @property
    def computed(self) -> set[str]:
        """Stages that this trial's last run computed itself."""
        return {name for name, stage in self.record["stages"].items() if stage["computed"]}

    @property
    def digests(self) -> dict[str, str]:
        """What came out of each stage."""
        return {name: stage["digest"] for name, stage in self.record["stages"].items()}

    def entry(self, stage: str) -> Path:
        """The folder of a stage's store entry."""
        return self.store / stage / self.record["stages"][stage]["key"][:16]

    def cost(self, stage: str) -> dict[str, Any]:
        """What making a stage's entry took."""
        found: dict[str, Any] = json.loads((self.entry(stage) / "manifest.json").read_text(encoding="utf-8"))["cost"]
        return found

    def seconds(self, stage: str) -> float:
        """How long making a stage's entry took."""
        return float(self.cost(stage)["seconds"])

    def history(self) -> list[dict[str, float]]:
        """One row of metrics for each Lightning epoch."""
        rows: list[dict[str, float]] = json.loads((self.entry("policy") / "history.json").read_text(encoding="utf-8"))
        return rows


def trial_folder(cwd: Path, arm: str, seed: int = 0, study: str = "scratch") -> Path:
    """The folder of the one trial of an arm and a seed; there need be nothing in it yet."""
    found = list((cwd / "runs" / study).glob(f"{glob.escape(arm)}-s{seed}-????????"))
    assert len(found) == 1, found
    return found[0]


def files_under(folder: Path, but: Sequence[str] = ("locks",)) -> set[str]:
    """Names of all files, without lock files."""
    return {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.relative_to(folder).parts[0] not in but
    }


def tracked(folder: Path) -> list[list[dict[str, Any]]]:
    """The records of each W&B run under a trial's folder, oldest run first, by W&B's own reader."""
    found = []
    for run in sorted(folder.glob("wandb/*run-2*"), key=lambda path: path.name.partition("run-")[2]):
        if not list(run.glob("*.wandb")):  # of a process that was killed before the file was there
            continue
        wandb = Path(sys.executable).with_name("wandb")
        done = subprocess.run([wandb, "leet", "inspect", "--json", run], capture_output=True, text=True, check=True)
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    return found


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until a condition holds; fails after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2]
    except OSError:
        return False
    return not state.startswith(("Z", "X"))


def using(store: Path, *more: str) -> list[int]:
    """Processes that were started with this store, and with more in their environment, as ``NAME=value``."""
    marks = {text.encode() for text in (f"RFT_STORE={store}", *more)}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            started_with = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marks <= set(started_with) and alive(int(folder.name)):
            found.append(int(folder.name))
    return found


def study(folder: Path, **more: Any) -> Path:
    """A folder with a ``study.yaml`` of tiny trials that no tracker is told of; `more` are its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"question": "?", "overrides": [*TINY, "tracker=none"], "arms": {"sft": OF["sft"]}, "seeds": [0]}
    (folder / "study.yaml").write_text(json.dumps(spec | more), encoding="utf-8")
    return folder
