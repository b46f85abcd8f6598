"""A study: arms × seeds from a ``study.yaml``, each trial a clean subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rft.config import compose, quoted
from rft.errors import UserError
from rft.runtime import cores
from rft.study.trial import RECORD, write_json


@dataclass
class StudySpec:
    """What ``study.yaml`` holds."""

    question: str = ""
    """What the study asks."""
    overrides: list[str] = field(default_factory=list)
    """Common to all arms, in Hydra's grammar."""
    arms: dict[str, list[str]] = field(default_factory=dict)
    """Arm → its overrides."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Replicates of the policy stage."""
    jobs: int = 0
    """Trials at once, each with its share of the cores; 0 takes one a core, at most 4."""


@dataclass(frozen=True, slots=True)
class Job:
    """One subprocess: ``rft run`` with these overrides."""

    name: str
    overrides: tuple[str, ...]
    folder: Path


def load_study(path: Path) -> tuple[str, StudySpec]:
    """A study's name (its folder's) and specification.

    Raises:
        UserError: no such file, a line that is no YAML, an unknown key, no arms, repeated seeds.
    """
    file = path / "study.yaml" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{file}: no such file; give a folder with a study.yaml, or a study's name under runs/")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(found, dict):
            raise UserError(f"{file}: holds no keys; write `arms:` with one arm a line, as in experiments/default")
        merged = OmegaConf.merge(OmegaConf.structured(StudySpec), found)
        spec = OmegaConf.to_object(merged)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text: {error}; give a study.yaml in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{file}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        valid = ", ".join(StudySpec.__dataclass_fields__)
        raise UserError(f"{file}: {key}{str(error).splitlines()[0]}; keys are {valid}") from error
    assert isinstance(spec, StudySpec)
    if not spec.arms:
        raise UserError(f"{file}: arms: is empty; give at least one, as in `ppo: [algorithm=ppo]`")
    if not spec.seeds or len(set(spec.seeds)) < len(spec.seeds) or min(spec.seeds) < 0:
        raise UserError(f"{file}: seeds: {spec.seeds} must be a list of different numbers, 0 or more")
    return file.resolve().parent.name if file.name == "study.yaml" else file.stem, spec


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a study. A wave starts when the one before it has ended."""

    shared: tuple[tuple[Job, ...], ...]
    """Stages that trials share: the common start first, then labels and reward models beside one another."""
    trials: tuple[Job, ...]


START = ("task", "model", "sft", "candidates", "strategy")
FEEDBACK = ("feedback", "judge", "reward")


def plan(name: str, spec: StudySpec, runs: Path) -> Plan:
    """The shared stages first, one job for each distinct set of them; then the trials. Everything is checked here.

    Raises:
        UserError: whatever is wrong with any arm, before anything is computed.
    """
    starts: dict[str, Job] = {}
    feedback: dict[str, Job] = {}
    trials = []
    for arm, own in spec.arms.items():
        common = (*spec.overrides, *own, f"study={quoted(name)}", f"arm={quoted(arm)}")
        try:
            cfg = compose(common)
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error
        folder = runs / name / "shared"
        for found, groups, until in (
            (starts, START, "candidates"),
            (feedback, (*START, *FEEDBACK), "reward_model"),
        ):
            same = json.dumps([OmegaConf.to_container(cfg[g], resolve=True, enum_to_str=True) for g in groups])
            job = Job(f"{until} ({arm})", (*common, f"until={until}"), folder / f"{arm}-{until}")
            found.setdefault(same, job)
        trials += [
            Job(f"{arm} seed {seed}", (*common, f"seed={seed}"), runs / name / arm / f"seed-{seed}")
            for seed in spec.seeds
        ]
    return Plan((tuple(starts.values()), tuple(feedback.values())), tuple(trials))


def run_job(job: Job, threads: int) -> subprocess.Popen[bytes]:
    """Start ``rft run`` in a clean process; its output goes to ``log.txt`` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "progress.json").unlink(missing_ok=True)  # an earlier start's
    environment = os.environ | {
        "RFT_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RFT_PROGRESS_FILE": str(job.folder / "progress.json"),
    }
    command = [sys.executable, "-m", "rft", "run", *job.overrides, f"hydra.run.dir={quoted(str(job.folder))}"]
    with (job.folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def _last_line(job: Job) -> str:
    lines = [
        x for x in (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()
    ]
    return lines[-1] if lines else "no output"


def _retire(job: Job, reason: str) -> None:
    """Let no record of an earlier start pass for one that was killed before it could write its own."""
    record = job.folder / RECORD
    if not record.exists():
        return
    kept = json.loads(record.read_text(encoding="utf-8"))
    if kept.get("status") == "done":
        write_json(record, kept | {"status": "failed", "error": reason})


class Launcher:
    """Runs jobs as subprocesses, some at once, with a live line for each; a job that fails ends alone."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def run(self, jobs: Sequence[Job], at_once: int, title: str) -> dict[str, str]:
        """Run all; returns the last line of each that failed, by name."""
        at_once = max(1, min(at_once, len(jobs)))
        threads = max(1, cores() // at_once)
        waiting, failed = list(jobs), {}
        running: dict[Job, tuple[subprocess.Popen[bytes], TaskID]] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            total = progress.add_task(title, total=len(jobs))
            try:
                while waiting or running:
                    while waiting and len(running) < at_once:
                        job = waiting.pop(0)
                        running[job] = (run_job(job, threads), progress.add_task(f"  {escape(job.name)}", total=None))
                    time.sleep(0.2)
                    for job, (process, task) in list(running.items()):
                        self._show(progress, task, job)
                        if process.poll() is None:
                            continue
                        del running[job]
                        progress.remove_task(task)
                        progress.advance(total)
                        if process.returncode:
                            failed[job.name] = _last_line(job)
                            _retire(job, failed[job.name])
                            self.console.print(f"[red]failed[/] {escape(job.name)}: ", end="")
                            self.console.print(failed[job.name], markup=False, highlight=False)
            finally:
                for process, _ in running.values():
                    process.terminate()
        return failed

    @staticmethod
    def _show(progress: Progress, task: TaskID, job: Job) -> None:
        try:
            state: dict[str, Any] = json.loads((job.folder / "progress.json").read_text(encoding="utf-8"))
            progress.update(task, description=escape(f"  {job.name}: {state['description']}"), completed=state["done"])
            progress.update(task, total=state["total"])
        except (OSError, ValueError, KeyError):
            pass


def run_study(planned: Plan, at_once: int, console: Console) -> dict[str, str]:
    """Compute what is missing of a study; returns the last line of each trial that failed, by name.

    Args:
        planned: its jobs.
        at_once: trials side by side; 0 takes one a core, at most 4.
        console: where progress and failures are shown.

    Raises:
        UserError: if a shared stage failed.
    """
    launcher = Launcher(console)
    at_once = at_once or min(4, cores())
    for wave in planned.shared:
        broken = launcher.run(wave, at_once, "shared stages")
        for job in wave:
            if job.name in broken:
                raise UserError(f"{job.name}: {broken[job.name]} (see {job.folder / 'log.txt'})")
    return launcher.run(planned.trials, at_once, "trials")
