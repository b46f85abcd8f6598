"""``rft status``, ``resume``, ``retry`` and ``cancel``: the trials of a study by its ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from rft.cli.examples import add_command
from rft.errors import UserError, nearest
from rft.store.names import PLAN
from rft.study.ledger import Ledger
from rft.study.ledger_file import FILE
from rft.study.owner import launchers
from rft.study.reading import GONE, as_found, rows_of
from rft.study.rows import Row, State

if TYPE_CHECKING:
    from rft.config.where import Where

Study = Annotated[str, typer.Argument(help="A study's name under runs/, or its folder there.")]
Names = Annotated[list[str] | None, typer.Argument(help="Trials: an arm, ARM-sSEED or a full name; all if not given.")]
Again = Annotated[
    list[str] | None,
    typer.Argument(
        help="Trials: an arm, ARM-sSEED or a full name; all that failed if not given. And hydra.launcher.KEY=VALUE.",
        metavar="[TRIAL...] [KEY=VALUE...]",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="hydra.launcher.KEY=VALUE: settings of where trials run, in place of those of before.",
        metavar="[KEY=VALUE...]",
    ),
]
OnLauncher = Annotated[
    str | None, typer.Option("--launcher", help="Where: local, ray or submitit; as the study was started if not given.")
]
Runs = Annotated[Path, typer.Option(help="Where trials are kept.")]
Jobs = Annotated[int, typer.Option(help="Trials at once; 0: as the study was started.")]


def study_folder(study: str, runs: Path) -> Path:
    """The folder of a study that has a ledger, or what one is made from.

    Raises:
        UserError: if there is none.
    """
    given = Path(study)
    for folder in (runs / given.name, given):
        if (folder / FILE).exists() or (folder / PLAN).exists():
            return folder
    there = [file.parent.name for file in sorted(runs.glob(f"*/{FILE}"))]
    hint = nearest(given.name, there) if there else "start one with rft run -m or rft compare"
    raise UserError(f"{study}: no study with a ledger under {runs}; {hint}")


def _ledger(study: str, runs: Path) -> Ledger:
    return Ledger(study_folder(study, runs), warn)


def warn(line: str) -> None:
    """Say what is wrong, and does not end the command."""
    Console(stderr=True).print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def _chosen(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """The trials that are meant; all if no names are given.

    Raises:
        UserError: for a name that none has.
    """
    if not names:
        return list(rows)
    found = []
    for name in names:
        meant = [row for row in rows if name in (row.name, row.arm, f"{row.arm}-s{row.seed}")]
        if not meant:
            raise UserError(f"{name}: no such trial; {nearest(name, [row.name for row in rows])}")
        found += [row for row in meant if row not in found]
    return found


def status(
    study: Study,
    as_json: Annotated[bool, typer.Option("--json", help="All rows as JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show where the trials of a study stand."""
    from rft.study.account import as_data, counted, table, ways_on

    rows = [row for row in rows_of(study_folder(study, runs), warn) if row.is_trial]
    if as_json:
        typer.echo(json.dumps([as_data(row) for row in rows], indent=1))
        return
    console = Console()
    console.print(table(rows, time.time()))
    console.print(counted(rows), highlight=False)
    if not launchers(study_folder(study, runs)):
        for line in ways_on(study, rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def resume(
    study: Study,
    settings: Settings = None,
    launcher: OnLauncher = None,
    jobs: Jobs = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Run what is queued or was interrupted, and nothing else; a trial goes on from its last checkpoint."""
    ledger = _ledger(study, runs)
    at = _where(ledger, settings or [], launcher, jobs)
    if (kept := ledger.noted("origin")) is not None:
        _resume_planned(study, ledger, kept, at)
        return
    there = ledger.rows()
    rows = as_found(ledger.study, there)
    for row, old in zip(rows, there, strict=True):
        if row.state is State.done and old.state is not State.done:  # its launcher died before its end
            ledger.end(row.name, State.done, versions=row.versions)
    waiting = [row for row in rows if row.state in (State.queued, State.interrupted, State.running)]
    ledger.requeue([row.name for row in waiting if row.error == GONE], {State.done})
    _run(study, ledger, waiting, at, {State.interrupted}, keep=True)


def _where(ledger: Ledger, given: Sequence[str], launcher: str | None, jobs: int) -> Where:
    """Where to go on: as the study was started, but for what is said now.

    Raises:
        UserError: for what is wrong with what is said.
    """
    from rft.config.where import where

    return where(ledger.study, given, launcher, jobs, kept=ledger.noted("where") or ())


def _resume_planned(study: str, ledger: Ledger, kept: dict[str, object], at: Where) -> None:
    """Go on with a study that has a study.yaml: shared stages, tuning and trials, as it was started.

    Raises:
        UserError: if the study.yaml has changed since; if trials did not end well.
    """
    from rft.study.origin import require_unchanged
    from rft.study.study import load_study, plan, run_study
    from rft.study.tuning import fair_tuning, with_overrides

    name, spec = load_study(require_unchanged(kept, study))
    if name != ledger.study.name:
        raise UserError(
            f"{study}: is a copy of the study {name}, whose study.yaml is {kept['file']}; go on with rft resume "
            f"{name}, or give {ledger.study.name} a study.yaml of its own and run rft compare with it"
        )
    overrides = kept["overrides"]
    assert isinstance(overrides, list)
    spec, tuning = fair_tuning(name, with_overrides(spec, overrides), ledger.study.parent)
    planned, console = plan(name, spec, ledger.study.parent), Console(stderr=True)
    tune = tuning.run if tuning else None
    run_study(planned, at.with_jobs(spec.jobs), console, tune, again={State.interrupted}, account=True)
    folders = {job.folder for job in (tuning.settled(planned) if tuning else planned).trials}
    _require_done(study, [row for row in ledger.rows() if ledger.study / row.name in folders])


def retry(
    study: Study,
    names: Again = None,
    launcher: OnLauncher = None,
    jobs: Jobs = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Start trials that failed, or were cancelled and are named, once more."""
    ledger = _ledger(study, runs)
    settings = [name for name in names or () if name.lstrip("+~").startswith("hydra")]
    names = [name for name in names or () if name not in settings]
    at = _where(ledger, settings, launcher, jobs)
    states = {State.failed, State.cancelled, State.interrupted} if names else {State.failed}
    meant = [row for row in _chosen(ledger.rows(), names) if row.state in states]
    _run(study, ledger, meant, at, states)


def _run(study: str, ledger: Ledger, rows: Sequence[Row], at: Where, states: set[State], *, keep: bool = False) -> None:
    """Run rows of the ledger as they stand there, and keep in it where, if told so.

    Raises:
        UserError: if trials did not end well.
    """
    from rft.study.account import closing, counted
    from rft.study.demands import at_once, kept_demand
    from rft.study.jobs import Job
    from rft.study.launch import Launcher

    console = Console(stderr=True)
    if not rows:
        there = counted([row for row in rows_of(ledger.study, warn) if row.is_trial])
        console.print(f"{study}: nothing to start; {there}", highlight=False)
        return
    with Launcher(console, ledger.study, again=(), settings=at.settings) as launcher:
        work = [
            Job(row.label, row.overrides, ledger.study / row.name, row.forks, row.arm, row.seed, demand)
            for row in rows
            for demand in [kept_demand(row.demand, launcher.executor, at)]
        ]
        if keep:
            ledger.note("where", at.overrides)
        names = {row.name for row in rows}
        ledger.requeue(names, states)
        with closing(console, ledger, names):
            launcher.run(work, at_once(launcher.executor, at.settings), "trials")
    _require_done(study, [row for row in ledger.rows() if row.name in names])


def _require_done(study: str, rows: Sequence[Row]) -> None:
    bad = [row.name for row in rows if row.state not in (State.done, State.cancelled)]
    if bad:
        raise UserError(f"{study}: {len(bad)} trials did not end well: {', '.join(bad)}; see log.txt in their folders")


def cancel(study: Study, names: Names = None, runs: Runs = Path("runs")) -> None:
    """Take back trials: queued ones do not start, running ones end with their step and keep their checkpoint."""
    from rft.study.executors.hold import ask_to_end

    ledger = _ledger(study, runs)
    chosen = _chosen(ledger.rows(), names)
    now, asked = ledger.cancel([row.name for row in chosen])
    alive = launchers(ledger.study)
    for row in chosen:
        if row.owner not in alive:  # what waits or runs elsewhere, though nobody would ask it
            ask_to_end(ledger.study / row.name)
    for name in now:
        typer.echo(f"cancelled {name}")
    for name in asked:
        typer.echo(f"{name} is asked to end")
    if not now and not asked:
        _nothing(study)


def _nothing(study: str) -> NoReturn:
    raise UserError(f"{study}: nothing is queued, running or interrupted there; rft status {study} shows what is")


EXAMPLES: Mapping[Callable[..., None], tuple[str, ...]] = {
    status: ("rft status first", "rft status first --json"),
    resume: (
        "rft resume first",
        "rft resume first --jobs 2",
        "rft resume first --launcher ray hydra.launcher.address=auto",
        "rft resume first hydra.launcher.memory_gb=24",
    ),
    retry: (
        "rft retry first",
        "rft retry first ppo",
        "rft retry first ppo-s1 dpo-s0",
        "rft retry first ppo hydra.launcher.memory_gb=24",
    ),
    cancel: ("rft cancel first", "rft cancel first ppo-s1"),
}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command, examples in EXAMPLES.items():
        add_command(app, command, examples)
