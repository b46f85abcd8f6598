"""The trials of ``rft run -m``: as many at once as fit, each a process of its own."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from rft.config import quoted
from rft.config.launchers import Launch
from rft.study.account import closing
from rft.study.executors.base import Executor, make_executor
from rft.study.jobs import Job, may_fork
from rft.study.launch import Launcher
from rft.study.rows import State
from rft.study.slots import Demand, demand_of


class _Sweep(Launcher):
    """A launcher that prints what a job printed when it has ended."""

    def __init__(self, console: Console, study: Path, executor: Executor, numbers: Mapping[Path, int]) -> None:
        super().__init__(console, study, executor=executor)
        self.numbers = numbers
        """By a trial's folder: its place in the sweep."""

    def ended(self, job: Job, state: State, *, here: bool) -> None:
        """Print its output, each job's in one piece."""
        how = state.value if here else f"{state.value} before, or by another launcher"
        self.console.print(f"[{self.numbers[job.folder]}] {job.name}: {how}", markup=False, highlight=False)
        if here and job.log.exists():
            sys.stdout.write(job.log.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()


def sweep_job(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> tuple[Job, dict[str, Any]]:
    """A trial of a sweep as a job, and its strategy.

    Args:
        cfg: the trial's configuration, its arm named.
        overrides: what Hydra was given for it.
        folder: where its record goes.
    """
    own = (*overrides, f"arm={quoted(str(cfg.arm))}")
    arm, seed = str(cfg.arm), int(cfg.seed)
    return Job(f"{arm} seed {seed}", own, folder, may_fork(cfg.strategy), arm, seed), dict(cfg.strategy)


def sweep_demand(strategy: Mapping[str, Any], settings: Launch, executor: Executor) -> Demand:
    """What a trial of a sweep takes; RFT_THREADS, if the sweep was started with it, comes first."""
    machine = executor.machine
    asked = min(int(os.environ.get("RFT_THREADS") or 0), max(1, machine.cores))
    return demand_of(
        strategy,
        machine,
        jobs=settings.jobs,
        cores=asked or settings.cores,
        memory_gb=settings.memory_gb,
        gpus=settings.gpus,
    )


def run_sweep(
    trials: Sequence[tuple[Job, Mapping[str, Any]]], settings: Launch, overrides: Sequence[str] = ()
) -> list[str]:
    """Run the trials and print what each printed; returns the names of those that failed or were stopped.

    Args:
        trials: from :func:`sweep_job`.
        settings: where they run, how many at once, and what each takes.
        overrides: those of Hydra's launcher, which are kept for those that go on with the trials.
    """
    failed: list[str] = []
    console = Console(stderr=True, soft_wrap=True)
    studies: dict[Path, dict[Path, tuple[Job, Mapping[str, Any]]]] = defaultdict(dict)
    for job, strategy in trials:
        studies[job.folder.absolute().parent][job.folder.absolute()] = (job, strategy)
    numbers = {job.folder: number for number, (job, _) in enumerate(trials)}
    for study, found in studies.items():
        executor = make_executor(settings, console)
        with _Sweep(console, study, executor, numbers) as launcher:
            jobs = [replace(job, demand=sweep_demand(how, settings, executor)) for job, how in found.values()]
            ledger, _ = launcher.open(study)
            ledger.note("where", list(overrides))
            names = {folder.name for folder in found}
            with closing(console, ledger, names):
                failed += launcher.run(told_apart(jobs), settings.jobs, "trials")
    return failed


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose names differ: those of one arm and seed also say in what their overrides do."""
    alike = Counter(job.name for job in jobs)
    common = set[str]().union(*(job.overrides for job in jobs)).intersection(*(job.overrides for job in jobs))

    def told(job: Job) -> str:
        own = [one for one in job.overrides if one not in common and not one.startswith(("seed=", "arm="))]
        return f"{job.name} ({' '.join(own)})" if alike[job.name] > 1 and own else job.name

    return [replace(job, name=told(job)) for job in jobs]
