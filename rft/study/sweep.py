"""The trials of ``rft run -m``: as many at once as fit, each a process of its own."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from rft.config import quoted
from rft.config.launchers import Launch
from rft.runtime import asked_threads
from rft.study.account import closing
from rft.study.executors.base import Executor, make_executor
from rft.study.jobs import Job, may_fork
from rft.study.launch import Launcher
from rft.study.rows import State
from rft.study.slots import Demand, demand_of
from rft.study.waves import WAVES, shares


class _Sweep(Launcher):
    """A launcher that prints what a job printed when it has ended."""

    def __init__(self, console: Console, study: Path, executor: Executor, numbers: Mapping[Path, int]) -> None:
        super().__init__(console, study, executor=executor)
        self.numbers = numbers
        """By a trial's folder: its place in the sweep."""

    def ended(self, job: Job, state: State, *, here: bool) -> None:
        """Print its output, each job's in one piece."""
        if job.folder not in self.numbers:  # a stage that trials share
            super().ended(job, state, here=here)
            return
        how = state.value if here else f"{state.value} before, or by another launcher"
        self.console.print(f"[{self.numbers[job.folder]}] {job.name}: {how}", markup=False, highlight=False)
        if here and job.log.exists():
            sys.stdout.write(job.log.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """A trial of a sweep."""

    job: Job
    strategy: Mapping[str, Any]
    shares: Mapping[str, str] = field(default_factory=dict)
    """By the last stage of a wave (`rft.study.waves`), what trials have in common that share it."""


def sweep_trial(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> SweepTrial:
    """A trial of a sweep, without its configuration: a thousand of these would fill the memory.

    Args:
        cfg: the trial's configuration, its arm named.
        overrides: what Hydra was given for it.
        folder: where its record goes.
    """
    own = (*overrides, f"arm={quoted(str(cfg.arm))}")
    arm, seed = str(cfg.arm), int(cfg.seed)
    job = Job(f"{arm} seed {seed}", own, folder, may_fork(cfg.strategy), arm, seed)
    whole = str(getattr(cfg.until, "value", cfg.until)) == "evaluation"
    return SweepTrial(job, dict(cfg.strategy), shares(cfg, seed) if whole else {})


def shared_waves(trials: Sequence[SweepTrial]) -> list[list[Job]]:
    """The stages that several trials share, each as a job of the first of them, in waves: one before the other."""
    users: dict[tuple[str, str], list[SweepTrial]] = defaultdict(list)
    for trial in trials:
        for until, same in trial.shares.items():
            users[until, same].append(trial)
    return [
        [_shared(found[0], until) for (at, _), found in users.items() if at == until and len(found) > 1]
        for until in WAVES
    ]


def _shared(trial: SweepTrial, until: str) -> Job:
    """The stages up to one as a job, by the settings of a trial."""
    job = trial.job
    place = job.folder.parent / "shared" / f"{job.folder.name}-{until}"
    own = (*job.overrides, f"until={until}")
    return Job(f"{until} ({job.name})", own, place, job.forks, strategy=trial.strategy)


def sweep_demand(strategy: Mapping[str, Any], settings: Launch, executor: Executor) -> Demand:
    """What a trial of a sweep takes; RFT_THREADS, if the sweep was started with it, comes first."""
    machine = executor.machine
    asked = min(asked_threads(), max(1, machine.cores))
    return demand_of(
        strategy,
        machine,
        jobs=settings.jobs,
        cores=asked or settings.cores,
        memory_gb=settings.memory_gb,
        gpus=settings.gpus,
    )


def run_sweep(trials: Sequence[SweepTrial], settings: Launch, overrides: Sequence[str] = ()) -> list[str]:
    """Run the trials and print what each printed; returns the names of those that failed or were stopped.

    Args:
        trials: from :func:`sweep_trial`.
        settings: where they run, how many at once, and what each takes.
        overrides: those of Hydra's launcher, which are kept for those that go on with the trials.
    """
    failed: list[str] = []
    console = Console(stderr=True, soft_wrap=True)
    studies: dict[Path, dict[Path, SweepTrial]] = defaultdict(dict)
    for trial in trials:
        folder = trial.job.folder.absolute()
        studies[folder.parent][folder] = trial
    numbers = {trial.job.folder: number for number, trial in enumerate(trials)}
    for study, found in studies.items():
        executor = make_executor(settings, console)
        with _Sweep(console, study, executor, numbers) as launcher:
            jobs = told_apart(
                [replace(one.job, demand=sweep_demand(one.strategy, settings, executor)) for one in found.values()]
            )
            ledger, _ = launcher.open(study)
            ledger.note("where", list(overrides))
            names = {folder.name for folder in found}
            with closing(console, ledger, names):
                launcher.submit(jobs)  # so that those who ask see what waits for the shared stages
                for wave in shared_waves(list(found.values())):
                    launcher.run(wave, settings.jobs, "shared stages")  # what fails here, trials will tell
                failed += launcher.run(jobs, settings.jobs, "trials")
    return failed


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose names differ: those of one arm and seed also say in what their overrides do."""
    alike = Counter(job.name for job in jobs)
    common = set[str]().union(*(job.overrides for job in jobs)).intersection(*(job.overrides for job in jobs))

    def told(job: Job) -> str:
        own = [one for one in job.overrides if one not in common and not one.startswith(("seed=", "arm="))]
        return f"{job.name} ({' '.join(own)})" if alike[job.name] > 1 and own else job.name

    return [replace(job, name=told(job)) for job in jobs]
