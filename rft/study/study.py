"""A study: arms × seeds from a ``study.yaml``, each trial a process of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from rft.config import compose, quoted
from rft.config.overrides import written
from rft.config.schemas import Replicate, RunConfig
from rft.config.where import Where
from rft.errors import UserError
from rft.store.names import STUDY, study_name
from rft.study.account import closing
from rft.study.demands import at_once, with_demands
from rft.study.final_judge import refuse_own_judge
from rft.study.identity import name_of
from rft.study.jobs import Job, may_fork
from rft.study.launch import Launcher
from rft.study.parts import require_scoring_judge, require_separate_labels
from rft.study.replicate import is_pipeline
from rft.study.rows import ENDED, State
from rft.study.waves import WAVES, plain_node, shares


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
    """Replicates of an arm."""
    replicate: Replicate = Replicate.policy
    """What a seed draws anew: `policy` the training only; `pipeline` the candidates, labels and reward model too."""
    sweep: str = "none"
    """How arms are tuned before: an option of the group ``sweep``, such as fair_tuning."""
    jobs: int = 0
    """Trials at once, each with its share of the cores; 0: one a core, at most 4, or as many as fit if it is said
    what each takes."""


def load_study(path: Path) -> tuple[str, StudySpec]:
    """A study's name (its folder's) and specification.

    Raises:
        UserError: no such file, a line that is no YAML, an unknown key, no arms, repeated seeds.
    """
    file = path / STUDY if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{file}: no such file; give a folder with a study.yaml, or a study's name under runs/")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(found, dict):
            raise UserError(f"{file}: holds no keys; write `arms:` with one arm a line, as in experiments/default")
        _refuse_settings(file, found)
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
    return study_name(file), spec


def _refuse_settings(file: Path, found: Mapping[Any, Any]) -> None:
    """Refuse settings of runs that stand among the keys of a study.

    Raises:
        UserError: with the overrides to write in their place.
    """
    for key, value in found.items():
        if key in SETTINGS and (key not in StudySpec.__dataclass_fields__ or isinstance(value, dict)):
            raise UserError(
                f"{file}: {key}: is no key of a study; write {_as_overrides(key, value or {})} under overrides:"
            )


def _as_overrides(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(_as_overrides(f"{key}.{k}", v) for k, v in value.items()) or f"{key}.…=…"
    plainly = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return f"{key}={value if plainly else written(value)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a study. A wave starts when the one before it has ended."""

    shared: tuple[tuple[Job, ...], ...]
    """Stages that trials share: the common start first, then revisions, labels and reward models beside one another."""
    trials: tuple[Job, ...]
    """Each comes after those of the last wave that it needs."""
    settings: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    """By a trial's folder: the configuration of its arm."""


SETTINGS = frozenset(RunConfig.__dataclass_fields__) - {"study", "arm", "seed", "replicate", "until"}
"""Groups and sections of a run's settings."""


def arm_overrides(name: str, spec: StudySpec, arm: str) -> tuple[str, ...]:
    """What all jobs of an arm have in common, those of tuning too: overrides, the study, what a seed repeats."""
    repeated = [] if spec.replicate is Replicate.policy else ["replicate=pipeline"]
    return (*spec.overrides, *spec.arms[arm], f"study={quoted(name)}", *repeated)


def plan(name: str, spec: StudySpec, runs: Path) -> Plan:
    """The shared stages first, one job for each distinct set of them; then the trials. Everything is checked here.

    Raises:
        UserError: whatever is wrong with any arm, before anything is computed.
    """
    shared: dict[str, dict[str, Job]] = {until: {} for until in WAVES}
    trials: list[Job] = []
    settings: dict[Path, Mapping[str, Any]] = {}
    replicates = {}
    for arm in spec.arms:
        common = (*arm_overrides(name, spec, arm), f"arm={quoted(arm)}")
        try:
            cfg = compose(common)
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error
        require_scoring_judge(cfg, f"arm {arm}: ")
        require_separate_labels(cfg, f"arm {arm}: ")
        refuse_own_judge(cfg, f"arm {arm}: ")
        strategy = plain_node(cfg.strategy)
        forks = may_fork(strategy)
        folder = runs / name / "shared"
        replicates[arm] = is_pipeline(cfg)
        needed: dict[int | None, tuple[Path]] = {}
        for seed in spec.seeds if is_pipeline(cfg) else (None,):
            for until, same in shares(cfg, seed).items():
                whose, more = (arm, ()) if seed is None else (f"{arm} seed {seed}", (f"seed={seed}",))
                place = folder / f"{whose.replace(' ', '-')}-{until}"
                own = (*common, *more, f"until={until}")
                made = Job(f"{until} ({whose})", own, place, forks, strategy=strategy)
                needed[seed] = (shared[until].setdefault(same, made).folder,)
        for seed in spec.seeds:
            cfg.seed = seed
            place = runs / name / name_of(cfg)
            own = (*common, f"seed={seed}")
            after = needed[seed if is_pipeline(cfg) else None]
            trials.append(Job(f"{arm} seed {seed}", own, place, forks, arm, seed, strategy=strategy, after=after))
        settings |= dict.fromkeys((job.folder for job in trials[-len(spec.seeds) :]), plain_node(cfg))
    if len(set(replicates.values())) > 1:
        raise UserError(
            f"replicate: arms {', '.join(arm for arm, all_anew in replicates.items() if all_anew)} ask for pipeline, "
            "the others for policy; give it once for the study, as `replicate: pipeline` in its study.yaml"
        )
    return Plan(tuple(tuple(wave.values()) for wave in shared.values()), tuple(trials), settings)


Tune = Callable[[Launcher, int], tuple[Sequence[Job], dict[str, str]]]
"""Runs tuning trials, some at once; returns the trials of the winners, and what failed and why."""


def run_study(
    planned: Plan,
    where: Where,
    console: Console,
    tune: Tune | None = None,
    *,
    origin: Mapping[str, Any] | None = None,
    again: Collection[State] = ENDED,
    account: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> dict[str, str]:
    """Compute what is missing of a study; returns the last line of each trial that failed, by name.

    Args:
        planned: its jobs.
        where: its trials run; kept in the ledger, for those that go on with them.
        console: where progress and failures are shown.
        tune: finds the settings of the trials, which then stand in for the planned ones.
        origin: where the study comes from, for the ledger.
        again: the states of ended trials that are started once more.
        account: show how each trial ended also if all are done.
        meanwhile: is called when the first job has been started, while it imports.

    Raises:
        UserError: if a shared stage failed, or a trial takes more than there is.
    """
    study = planned.trials[0].folder.parent
    with Launcher(console, study, again, settings=where.settings, meanwhile=meanwhile) as launcher:
        side_by_side = at_once(launcher.executor, where.settings)
        trials: Sequence[Job] = with_demands(planned.trials, side_by_side, launcher.executor, where.settings)
        ledger, _ = launcher.open(study)
        ledger.note("where", where.overrides)
        if origin is not None:
            ledger.note("origin", origin)
        if tune is None:
            launcher.submit(trials)  # so that those who ask see what waits for the shared stages
        names = {job.folder.relative_to(study).as_posix() for job in trials}
        done = tune is None and all(row.state is State.done for row in ledger.rows() if row.name in names)
        with closing(console, ledger, names, always=account):
            if done:  # nobody waits for what they share
                return launcher.run(trials, side_by_side, "trials")
            *waves, last = planned.shared
            # Beside those of the last wave that take longest, the trials that do not need these begin.
            beside = list(last) if tune is None and len(last) > 1 else []
            for wave in waves if beside else planned.shared:
                _require_all(wave, launcher.run(wave, side_by_side, "shared stages"))
            trials, failed = tune(launcher, side_by_side) if tune else (trials, {})
            names |= {job.folder.relative_to(study).as_posix() for job in trials}
            if not beside:
                return failed | launcher.run(trials, side_by_side, "trials")
            beside = with_demands(beside, side_by_side, launcher.executor, where.settings)
            failed = launcher.run([*beside, *trials], side_by_side, "shared stages and trials")
            _require_all(beside, failed)
            return failed


def _require_all(wave: Sequence[Job], broken: Mapping[str, str]) -> None:
    """Refuse to go on without a shared stage.

    Raises:
        UserError: naming the first that failed, and why.
    """
    for job in wave:
        if job.name in broken:
            raise UserError(f"{job.name}: {broken[job.name]} (see {job.log})")
