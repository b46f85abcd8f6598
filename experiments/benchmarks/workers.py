"""Starts the sides as processes of their own and lets them take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.benchmarks.cases import BY_NAME, ROOT, Job, Prepared, Shape

OURS, PEER, FLOOR = "ours", "trl", "floor"
WARM_UPS = 1
END_SECONDS = 30
TRL_OF = {"ppo": "112"}  # the last version with PPO; all else is of the other one
TRL = "116"


def peer_python(algorithm: str) -> Path:
    """The interpreter of TRL's environment, which ``make test-parity`` builds too."""
    return ROOT / f".venv-parity-{TRL_OF.get(algorithm, TRL)}" / "bin" / "python"


class SideFailed(RuntimeError):
    """A worker ended before it was asked to; the message is the end of what it printed."""


@dataclass
class Measured:
    """What a side did in its turns."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    costs: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None

    def add(self, answer: dict[str, Any]) -> None:
        """One more step."""
        self.seconds.append(answer["seconds"])
        self.tokens.append(answer["tokens"])
        self.parts.append(answer["parts"])
        self.peak_bytes = answer["peak_bytes"]


class Worker:
    """One side of one case, in a fresh process."""

    def __init__(self, side: str, job: Job, log: Path) -> None:
        self.side, self.log = side, log
        python = peer_python(BY_NAME[job.case].algorithm) if side == PEER else Path(sys.executable)
        if not python.exists():
            raise SideFailed(f"{python.parents[1].name} is missing; run `make bench`, or leave TRL out (--no-trl)")
        command = [str(python), "-m", f"experiments.benchmarks.sides.{side}", json.dumps(job.told())]
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=surroundings(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def answer(self) -> dict[str, Any]:
        """The next line that it writes.

        Raises:
            SideFailed: if there is none.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            told = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise SideFailed(told[-1] if told else f"ended with code {self._process.wait(END_SECONDS)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def step(self, command: str = "step") -> dict[str, Any]:
        """Let it do one step."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its answer, which is none, says why
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(0 if kind is KeyboardInterrupt else END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def surroundings(job: Job) -> dict[str, str]:
    """Of a worker: as many threads as were asked for, no network, no graphics card, quiet libraries."""
    threads = str(job.threads)
    return os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RFT_THREADS": threads,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": job.scratch,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "WANDB_MODE": "disabled",
    }


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run have in common."""

    model: str
    threads: int
    repeats: int
    logs: Path
    prepared: Prepared | None = None

    def job(self, case: str, lora: bool, shape: Shape, scratch: str) -> Job:
        """What a worker is told."""
        steps = WARM_UPS + self.repeats
        return Job(case, self.model, lora, shape, self.threads, steps, scratch, self.prepared)

    def prepare(self, shape: Shape) -> Prepared:
        """Make the model, if it is not in the store, and find out how its responses end."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            job = self.job("decode", False, shape, scratch)
            with Worker(OURS, job, self.logs / f"{self.model}-prepare.log") as worker:
                told = worker.answer()
        return Prepared(told["folder"], told["ending_token"], tuple(told["lengths"]))

    def measure(self, turns: Sequence[tuple[str, str, bool, Shape]]) -> list[Measured]:
        """Let several (side, case, adapters, shape) take turns: one warm-up each, then the repeats.

        They are started one after another, so that no one's start-up disturbs another's step. One that fails is left
        out of the rest.
        """
        found = [Measured() for _ in turns]
        workers: dict[int, Worker] = {}
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_workers:
            for i, (side, case, lora, shape) in enumerate(turns):
                own = Path(scratch) / str(i)
                own.mkdir()
                log = self.logs / f"{self.model}-{case}-{'lora' if lora else 'full'}-{i}-{side}.log"
                try:
                    workers[i] = open_workers.enter_context(Worker(side, self.job(case, lora, shape, str(own)), log))
                    found[i].versions = workers[i].answer()["versions"]
                except SideFailed as reason:
                    found[i].failed = str(reason)
            for turn in range(WARM_UPS + self.repeats):
                for i, worker in workers.items():
                    self._take(worker, found[i], warm=turn >= WARM_UPS)
        return found

    @staticmethod
    def _take(worker: Worker, found: Measured, warm: bool) -> None:
        """One step of one of them."""
        if found.failed is not None:
            return
        try:
            answer = worker.step()
        except SideFailed as reason:
            found.failed = str(reason)
            return
        if warm:
            found.add(answer)

    def profile(self, case: str, lora: bool, shape: Shape) -> Measured:
        """One step of ours under the profiler, after a warm-up."""
        found = Measured()
        log = self.logs / f"{self.model}-{case}-{'lora' if lora else 'full'}-profile.log"
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with Worker(OURS, self.job(case, lora, shape, scratch), log) as worker:
                    found.versions = worker.answer()["versions"]
                    worker.step()
                    found.costs = worker.step("profile")["costs"]
            except SideFailed as reason:
                found.failed = str(reason)
        return found
