"""The trials of ``rft run -m``: one after the other, each a process of its own that starts as a fork or plainly."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from rft.config import quoted
from rft.runtime import cores
from rft.study.launch import Job, Launcher, Process, may_fork


class _AsPlainly(Launcher):
    """A launcher that gives each job the threads that ``rft run`` takes when it is started by hand."""

    def __init__(self, console: Console, threads: Mapping[str, int]) -> None:
        super().__init__(console)
        self.threads = threads

    def start(self, job: Job, threads: int) -> Process:
        """Start a job; RFT_THREADS, if the sweep was started with it, comes first."""
        asked = int(os.environ.get("RFT_THREADS") or 0)
        return super().start(job, asked or self.threads.get(job.name, threads))


def sweep_job(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> tuple[Job, int]:
    """A trial of a sweep as a job, and its threads over all its processes.

    Args:
        cfg: the trial's configuration, its arm named.
        overrides: what Hydra was given for it.
        folder: where its record goes.
    """
    own = (*overrides, f"arm={quoted(str(cfg.arm))}")
    processes = max(1, int(cfg.strategy.get("devices", 1)))
    threads = int(cfg.strategy.get("threads", 0)) * processes or cores()
    return Job(f"{cfg.arm} seed {cfg.seed}", own, folder, may_fork(cfg.strategy)), threads


def run_sweep(trials: Sequence[tuple[Job, int]]) -> list[str]:
    """Run the trials and print what each printed; returns the names of those that failed."""
    failed: list[str] = []
    with _AsPlainly(Console(stderr=True), {job.name: threads for job, threads in trials}) as launcher:
        for number, (job, _) in enumerate(trials):
            sys.stderr.write(f"[{number}] {job.name}\n")
            failed += launcher.run([job], 1, "trials")
            sys.stdout.write(job.log.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()
    return failed
