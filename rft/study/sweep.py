"""The trials of ``rft run -m``: as many at once as there are cores for, each a process of its own."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from rft.config import quoted
from rft.runtime import cores
from rft.study.account import closing
from rft.study.launch import Job, Launcher, Process, may_fork
from rft.study.rows import State

AT_ONCE = 4


class _Sweep(Launcher):
    """A launcher that prints what a job printed when it has ended, and gives it the threads that it asks for."""

    def __init__(self, console: Console, study: Path, threads: Mapping[str, int], numbers: Mapping[str, int]) -> None:
        super().__init__(console, study)
        self.threads, self.numbers = threads, numbers

    def start(self, job: Job, threads: int) -> Process:
        """Start a job; RFT_THREADS, if the sweep was started with it, comes first."""
        asked = int(os.environ.get("RFT_THREADS") or 0)
        return super().start(job, asked or self.threads.get(job.name) or threads)

    def ended(self, job: Job, state: State, *, here: bool) -> None:
        """Print its output, each job's in one piece."""
        how = state.value if here else f"{state.value} before, or by another launcher"
        self.console.print(f"[{self.numbers[job.name]}] {job.name}: {how}", markup=False, highlight=False)
        if here and job.log.exists():
            sys.stdout.write(job.log.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()


def sweep_job(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> tuple[Job, int]:
    """A trial of a sweep as a job, and the threads that it asks for over all its processes; 0 for its share.

    Args:
        cfg: the trial's configuration, its arm named.
        overrides: what Hydra was given for it.
        folder: where its record goes.
    """
    own = (*overrides, f"arm={quoted(str(cfg.arm))}")
    processes = max(1, int(cfg.strategy.get("devices", 1)))
    threads = int(cfg.strategy.get("threads", 0)) * processes
    arm, seed = str(cfg.arm), int(cfg.seed)
    return Job(f"{arm} seed {seed}", own, folder, may_fork(cfg.strategy), arm, seed), threads


def run_sweep(trials: Sequence[tuple[Job, int]]) -> list[str]:
    """Run the trials and print what each printed; returns the names of those that failed or were stopped."""
    failed: list[str] = []
    console = Console(stderr=True, soft_wrap=True)
    threads = {job.name: asked for job, asked in trials}
    at_once = max(1, min(AT_ONCE, cores() // max(1, *threads.values())))
    studies: dict[Path, dict[Path, Job]] = defaultdict(dict)
    for job, _ in trials:
        studies[job.folder.absolute().parent][job.folder.absolute()] = job
    numbers = {job.name: number for number, (job, _) in enumerate(trials)}
    for study, jobs in studies.items():
        with _Sweep(console, study, threads, numbers) as launcher:
            failed += launcher.run(list(jobs.values()), at_once, "trials")
            names = {folder.name for folder in jobs}
            closing(console, [row for row in launcher.open(study)[0].rows() if row.name in names])
    return failed
