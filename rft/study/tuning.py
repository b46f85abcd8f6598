"""Fair tuning: every arm gets the same number of trials over the ranges that its algorithm declares.

They see ``validation`` alone. What Optuna draws next depends on the numbers of the trials before, told in order, so
that a study asks the same again however its jobs were timed; nothing is kept but results, from which it is replayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from rft.config import build, compose, number, quoted
from rft.config.build import split_target
from rft.config.extract import config_class
from rft.config.overrides import keys_of, overridden, written
from rft.config.plugins import is_ours
from rft.config.search import Search, narrowed, search_fault, search_space
from rft.errors import UserError
from rft.report.tuning import FOLDER
from rft.store import Store
from rft.store.names import RECORD
from rft.study.asks import Asks
from rft.study.jobs import Job, may_fork
from rft.study.launch import Launcher
from rft.study.outcome import outcome
from rft.study.study import Plan, StudySpec, arm_overrides, plan
from rft.study.trial import write_json
from rft.study.tuned import Arm, kept
from rft.study.waves import plain_node

SPLIT = "validation"


def _chosen(settings: Mapping[str, Any]) -> list[str]:
    return [f"algorithm.{key}={written(value)}" for key, value in settings.items()]


class ObjectiveEnum(str, Enum):
    """What a tuning trial is judged by."""

    gold = "gold"
    proxy = "proxy"


class SamplerEnum(str, Enum):
    """Who draws the settings."""

    tpe = "tpe"
    random = "random"


class StoppingEnum(str, Enum):
    """Which tuning trials are stopped early."""

    none = "none"
    median = "median"
    halving = "halving"


@dataclass
class Config:
    """Settings of fair tuning."""

    trials: int = number(16, at_least=0)
    """Tuning trials of each arm, all with the study's own training budget; 0 tunes nothing."""
    objective: ObjectiveEnum = ObjectiveEnum.gold
    """Mean on validation that is to be high: the hidden gold reward, or the proxy, as where no gold is to be had."""
    seeds: list[int] = field(default_factory=lambda: [1000])
    """Seeds of every tuning trial, whose mean counts. None may be a seed of the study."""
    sampler: SamplerEnum = SamplerEnum.tpe
    """tpe (Bergstra et al. 2011) learns from the trials before; random does not."""
    startup: int = number(5, at_least=1)
    """Trials of an arm before tpe learns from them."""
    batch: int = number(2, at_least=1)
    """Trials of an arm that are drawn at once. It decides what is drawn; how many processes run does not."""
    defaults_first: bool = True
    """The first trial takes the arm's own settings, as far as they lie in the ranges."""
    seed: int = number(0, at_least=0)
    """Of the draws."""
    stopping: StoppingEnum = StoppingEnum.none
    """Trials of an arm that fall behind its others are stopped, by the same rule in every arm: `median`, below the
    median of those before; `halving`, not in the better half of them. A winner was trained to its end."""
    looks: list[float] = field(default_factory=lambda: [0.25, 0.5])
    """Shares of the training at which trials are tested, and may be stopped, unless stopping is none."""
    ranges: dict[str, list[Any]] | None = None
    """{field: [lowest, highest]}, or all values of a choice, in place of what schemas declare, for every arm that
    searches the field."""


def with_overrides(spec: StudySpec, overrides: Sequence[str]) -> StudySpec:
    """A study with further overrides for all its arms, in place of its own common ones where both set the same.

    Raises:
        UserError: if one is no override.
    """
    return replace(spec, overrides=overridden(spec.overrides, overrides)) if overrides else spec


def fair_tuning(name: str, spec: StudySpec, runs: Path) -> tuple[StudySpec, FairTuning | None]:
    """A study without its ``sweep`` overrides, and the tuning that they ask for, checked; None if they ask for none.

    Raises:
        UserError: an arm that asks for a sweep of its own, and whatever is wrong with the sweep.
    """
    for arm, own in spec.arms.items():
        if asked := [o for o, key in keys_of(own) if key.partition(".")[0] == "sweep"]:
            raise UserError(f"arm {arm}: {asked[0]}: tuning is the same for every arm; move it to `overrides:`")
    kept = [o for o, key in keys_of(spec.overrides) if key.partition(".")[0] != "sweep"]
    given = [o for o in spec.overrides if o not in kept]
    asked = overridden([f"sweep={spec.sweep}"], given)
    if "sweep=none" in asked:
        if given and "sweep=none" not in given:
            raise UserError(f"{given[0]}: there is no sweep to set; add sweep=fair_tuning")
        return replace(spec, overrides=kept), None
    arm, own = next(iter(spec.arms.items()))
    try:
        sweep = compose((*kept, *own, *asked)).sweep
    except UserError as error:
        raise UserError(f"arm {arm}: {error}") from error
    spec = replace(spec, overrides=kept)
    return spec, build(sweep, name=name, spec=spec, runs=runs) if sweep.get("trials") else None


class FairTuning:
    """Tunes the arms of a study; everything is checked here, before anything is computed.

    Args:
        config: its settings.
        name: the study's name.
        spec: the study, without its ``sweep`` overrides.
        runs: where trials are kept.

    Raises:
        UserError: seeds or splits that tuning and test would share, a range that a field does not take.
    """

    def __init__(self, config: Config, *, name: str, spec: StudySpec, runs: Path) -> None:
        self.config, self.name, self.spec, self.runs = config, name, spec, runs
        self.folder, self.ranges = runs / name / FOLDER, config.ranges or {}
        self.tuned = spec
        """The study with the winners' settings, once they are known."""
        self.untuned: dict[str, str] = {}
        """Arms that are not tuned, and why."""
        self.shares = (1.0,) if config.stopping is StoppingEnum.none else (*config.looks, 1.0)
        """Of its training, at which a trial is tested."""
        self._check_seeds()
        self._check_looks()
        found = {arm: self._arm(arm) for arm in spec.arms}
        self.arms = {arm: one for arm, one in found.items() if one is not None}
        unknown = set(self.ranges) - {key for arm in self.arms.values() for key in arm.space}
        if unknown:
            raise UserError(f"sweep.ranges: no arm searches {', '.join(sorted(unknown))}; leave it out")
        if not self.arms:
            why = "; ".join(f"{arm}: {reason}" for arm, reason in self.untuned.items())
            raise UserError(f"sweep.trials={config.trials}: there is nothing to tune: {why}; leave the sweep out")

    def _check_seeds(self) -> None:
        seeds = self.config.seeds
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise UserError(f"sweep.seeds={seeds}: must be a list of different numbers, 0 or more")
        if both := sorted(set(seeds) & set(self.spec.seeds)):
            raise UserError(
                f"sweep.seeds={seeds}: the study itself has seed {both[0]}; the winners must run on seeds that tuning "
                "has not seen, so give others to one of the two"
            )

    def _check_looks(self) -> None:
        looks = self.config.looks
        if not looks or any(not 0 < a < b for a, b in pairwise((*looks, 1.0))):
            raise UserError(
                f"sweep.looks={looks}: must be shares of the training, above 0, below 1, each larger than the one "
                "before, as in [0.25,0.5]"
            )

    def _arm(self, arm: str) -> Arm | None:
        common = arm_overrides(self.name, self.spec, arm)
        try:
            cfg = compose((*common, f"arm={quoted(arm)}"))
            space = self._space(cfg, {key for _, key in keys_of(common)}, arm)
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error
        if SPLIT in cfg.evaluation.splits:
            raise UserError(
                f"arm {arm}: evaluation.splits={list(cfg.evaluation.splits)}: {SPLIT} is what tuning picks the winners "
                "by, and would flatter them; leave it out"
            )
        if not space:
            return None
        settings = plain_node(cfg.algorithm)
        asks = Asks(
            space,
            defaults={key: settings[key] for key in space} if self.config.defaults_first else {},
            sampler=self.config.sampler.value,
            startup=self.config.startup,
            seed=self.config.seed,
            stopping=self.config.stopping.value,
        )
        strategy = plain_node(cfg.strategy)
        return Arm(arm, str(cfg.algorithm.name), common, space, asks, may_fork(strategy), strategy)

    def _space(self, cfg: DictConfig, fixed: set[str], arm: str) -> dict[str, Search]:
        """What is searched of an arm: what its algorithm declares and its overrides do not fix."""
        target = str(cfg.algorithm["_target_"])
        declared = config_class(split_target(target)[0])
        space = search_space(declared)
        free = {key: search for key, search in space.items() if f"algorithm.{key}" not in fixed}
        for key in set(free) & set(self.ranges):
            free[key] = self._narrowed(declared, key, free[key])
        if not space:
            warning = "" if is_ours(target) else "warning: "
            self.untuned[arm] = f"{warning}algorithm {cfg.algorithm.name} declares no search range, so it runs as it is"
        elif not free:
            self.untuned[arm] = f"warning: its overrides fix {', '.join(space)}, so nothing is left to search"
        return free

    def _narrowed(self, declared: type[Any], key: str, search: Search) -> Search:
        ends = self.ranges[key]
        try:
            found = narrowed(search, ends)
        except ValueError as error:
            raise UserError(f"sweep.ranges.{key}={ends}: {error}; write it as [1e-6, 1e-4]") from error
        if fault := search_fault(declared, key, found):
            raise UserError(f"sweep.ranges.{key}={ends}: {fault}")
        return found

    def jobs(self, arm: Arm, trial: int, settings: Mapping[str, Any], share: float = 1.0) -> list[Job]:
        """A tuning trial, up to a share of its training: one job a seed. Snapshots would pick no winner, so none."""
        part = [f"budget.share={share}"] if share < 1 else []
        return [
            Job(
                f"{arm.name} tuning {trial} seed {seed}",
                (
                    *(one for one in arm.overrides if not one.startswith("eval_judge")),  # the winners alone are tested
                    f"arm={quoted(f'{arm.name}-tuning-{trial:03}')}",
                    *_chosen(settings),
                    *part,
                    f"evaluation.splits=[{SPLIT}]",
                    "evaluation.checkpoints=0",
                    f"seed={seed}",
                ),
                self.folder / arm.name / f"trial-{trial:03}" / f"seed-{seed}",
                arm.forks,
                arm.name,
                seed,
                strategy=arm.strategy,
            )
            for seed in self.config.seeds
        ]

    def settled(self, planned: Plan) -> Plan:
        """A plan with the trials of the winners, of this tuning or of one that was kept, as far as there are any."""
        arms = {
            name: [*self.spec.arms[name], *_chosen((self.arms[name].winner or self._kept(name))["settings"])]
            if name in self.arms
            else own
            for name, own in self.spec.arms.items()
        }
        tuned = plan(self.name, replace(self.spec, arms=arms), self.runs)
        return replace(planned, trials=tuned.trials, settings=tuned.settings)

    def _kept(self, arm: str) -> dict[str, Any]:
        """What the file of an arm's tuning has as its winner, if it lies in what is searched now."""
        try:
            found = json.loads((self.folder / f"{arm}.json").read_text(encoding="utf-8"))["winner"] or {}
            space = self.arms[arm].space
            fits = all(space[key].holds(value) for key, value in found.items())
        except (OSError, ValueError, KeyError, TypeError):
            return {"settings": {}}
        return {"settings": found if fits else {}}

    def unsearched(self, settings: Mapping[Path, Mapping[str, Any]]) -> dict[Path, Mapping[str, Any]]:
        """The settings of a plan, by a trial's folder, without those that tuning chooses."""
        found: dict[Path, Mapping[str, Any]] = {}
        for folder, config in settings.items():
            arm = self.arms.get(str(config["arm"]))
            chosen = arm.space.keys() if arm else ()
            own = {key: value for key, value in config["algorithm"].items() if key not in chosen}
            found[folder] = {**config, "algorithm": own}
        return found

    def run(self, launcher: Launcher, at_once: int) -> tuple[tuple[Job, ...], dict[str, str]]:
        """Tune; returns the trials of the winners, and arms that have none, with why.

        What is in the store already is not computed again.
        """
        self._introduce(launcher.console)
        store, ran = Store.default(), 0
        every = self.config.trials * len(self.arms) * len(self.config.seeds) * len(self.shares)
        for first in range(0, self.config.trials, self.config.batch):
            numbers = range(first, min(first + self.config.batch, self.config.trials))
            asked = {(arm, n): self.arms[arm].asks.ask() for arm in self.arms for n in numbers}
            going, found = list(asked), dict[tuple[str, int], dict[str, Any]]()
            for place, share in enumerate(self.shares):
                jobs = {at: self.jobs(self.arms[at[0]], at[1], asked[at], share) for at in going}
                batch = [job for some in jobs.values() for job in some]
                failed = launcher.run(batch, at_once, "tuning", before=ran, total=every) if batch else {}
                ran += len(asked) * len(self.config.seeds)
                found |= {at: self._tested(some, failed, store) | {"share": share} for at, some in jobs.items()}
                going = [at for at in going if self._goes_on(at, place, found[at]["value"])]
            for (arm, n), settings in asked.items():
                self.arms[arm].trials.append(kept(n, settings, found[arm, n]))
            for one in self.arms.values():
                self._write(one)
        return self._winners(launcher.console)

    def _tested(self, jobs: Sequence[Job], failed: Mapping[str, str], store: Store) -> dict[str, Any]:
        """``{"value", "seeds"}`` of a trial at one of its points; the value is None if a seed has none."""
        objective = self.config.objective.value
        seeds = [outcome(job, failed.get(job.name), SPLIT, objective, store) for job in jobs]
        values = [seed["value"] for seed in seeds]
        value = sum(values) / len(values) if None not in values else None
        return {
            "value": value,
            "seeds": [{"seed": n, **seed} for n, seed in zip(self.config.seeds, seeds, strict=True)],
        }

    def _goes_on(self, at: tuple[str, int], place: int, value: float | None) -> bool:
        """Whether a trial is trained further; what it came to is told if it is not."""
        (arm, number), last = at, place == len(self.shares) - 1
        asks = self.arms[arm].asks
        if value is not None and not last and asks.look(number, place, value):
            return True
        asks.tell(number, value if last else None)
        return False

    def _write(self, arm: Arm) -> None:
        winner = arm.winner
        write_json(
            self.folder / f"{arm.name}.json",
            {
                "arm": arm.name,
                "algorithm": arm.algorithm,
                "budget": self.config.trials,
                "objective": self.config.objective.value,
                "split": SPLIT,
                "sampler": self.config.sampler.value,
                "stopping": self.config.stopping.value,
                "space": {key: str(search) for key, search in arm.space.items()},
                "trials": arm.trials,
                "best_so_far": arm.best_so_far,
                "winner": winner["settings"] if winner else None,
                "failure": arm.failure,
            },
        )

    def _introduce(self, console: Console) -> None:
        for arm, why in self.untuned.items():
            console.print(f"not tuned: {arm}: {why}", markup=False, highlight=False, soft_wrap=True)
        seeds = ", ".join(map(str, self.config.seeds))
        arms = "; ".join(f"{arm.name} over {', '.join(arm.space)}" for arm in self.arms.values())
        told = f"tuning: {self.config.trials} trials an arm by {self.config.objective.value} on {SPLIT}, seed {seeds}: "
        console.print(told + arms, markup=False, highlight=False, soft_wrap=True)

    def _winners(self, console: Console) -> tuple[tuple[Job, ...], dict[str, str]]:
        arms, broken = dict(self.spec.arms), {}
        for name, arm in self.arms.items():
            winner = arm.winner
            if winner is None:
                broken[f"{name} (tuning)"] = str(arm.failure)
                console.print(f"failed {name}: {arm.failure}", markup=False, highlight=False, soft_wrap=True)
                self._fail(arm)
                del arms[name]
                continue
            chosen = _chosen(winner["settings"])
            arms[name] = [*arms[name], *chosen]
            what = f"tuned {name}: {' '.join(chosen)}: {self.config.objective.value} {winner['value']:.3f} on {SPLIT}"
            line = f"{what}, the best of {self.config.trials} (trial-{winner['number']:03})"
            line += f", {arm.stopped} of them stopped early" if arm.stopped else ""
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.tuned = replace(self.spec, arms=arms)
        return plan(self.name, self.tuned, self.runs).trials if arms else (), broken

    def _fail(self, arm: Arm) -> None:
        """Leave a record of every trial that an arm without a winner cannot run."""
        told = {"study": self.name, "arm": arm.name, "algorithm": arm.algorithm}
        for job in plan(self.name, replace(self.spec, arms={arm.name: self.spec.arms[arm.name]}), self.runs).trials:
            write_json(job.folder / RECORD, told | {"seed": job.seed, "status": "failed", "error": arm.failure})
