"""``rft runs``: the trials on this machine, in tables and files, without any tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rft.cli.examples import add_command
from rft.cli.store import console
from rft.cli.sweeps import warn

if TYPE_CHECKING:
    from rft.study.local import LocalTrial

Studies = Annotated[
    list[str] | None, typer.Argument(help="Names under runs/, or folders; all under runs/ if not given.")
]
Runs = Annotated[Path, typer.Option(help="Where trials are kept.")]

app = typer.Typer(name="runs", no_args_is_help=True)


def _trials(studies: list[str] | None, runs: Path) -> list[LocalTrial]:
    """The trials of studies.

    Raises:
        UserError: for what is no study, or if there is no trial.
    """
    from rft.errors import UserError
    from rft.study.local import study_folders, trials_of

    found = [trial for folder in study_folders(studies or [], runs) for trial in trials_of(folder, warn)]
    if not found:
        raise UserError(f"{', '.join(studies or [str(runs)])}: there are no trials; rft run starts one")
    return found


def list_trials(
    studies: Studies = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Of the final test, as eval/test/gold; may be given again.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="A metric; the highest first, trials without it last.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """List trials: state, time, metrics of the final test."""
    from rft.store import Store
    from rft.study import listing
    from rft.study.account import counted

    store, trials = Store.default(), _trials(studies, runs)
    found = {trial.name: trial.metrics(store) for trial in trials}
    names = sorted({name for own in found.values() for name in own})
    asked = [_known(name, names) for name in metric or ()]
    if sort is not None:
        by = _known(sort, names)
        trials.sort(key=lambda trial: -found[trial.name].get(by, float("-inf")))
        asked = asked or [*dict.fromkeys((by, *listing.default_metrics(list(found.values()))))]
    if as_json:
        typer.echo(json.dumps([listing.as_json(trial, store) for trial in trials], indent=1))
        return
    own = [found[trial.name] for trial in trials]
    out = console()
    out.print(listing.list_table(trials, own, asked or listing.default_metrics(own)))
    out.print(counted([trial.row for trial in trials]), highlight=False)


def _known(name: str, names: list[str]) -> str:
    """A metric that some trial has, by its name or what follows ``eval/``.

    Raises:
        UserError: if none has.
    """
    from rft.errors import UserError, nearest

    for one in (name, f"eval/{name}"):
        if one in names:
            return one
    raise UserError(f"{name}: no trial has this metric of the final test; {nearest(name, names)}")


def show(
    trial: Annotated[
        str, typer.Argument(help="STUDY/TRIAL, a trial's folder, or its name or ARM-sSEED if no other has it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: with its record and its whole history.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show one trial: how it stands, its overrides, stages, final test, and the curves of its training."""
    from rft.store import Store
    from rft.study import listing
    from rft.study.local import find_trial
    from rft.study.sparkline import levels_for

    store, found = Store.default(), find_trial(trial, runs, warn)
    if as_json:
        more = {"record": found.record or None, "history": found.history()}
        typer.echo(json.dumps(listing.as_json(found, store) | more, indent=1))
        return
    out = console()
    out.print(listing.details(found, store, levels_for(out.encoding)))


def export(
    studies: Studies = None,
    history: Annotated[
        Path | None,
        typer.Option(help="File for the histories of training: a row for each trial and step. .csv or .parquet"),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="File for the metrics of the final test: a row for each trial. .csv or .parquet")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write histories and final tests of all trials of some studies to files, CSV or Parquet by their endings."""
    from rft.errors import UserError
    from rft.store import Store
    from rft.study.export import final_rows, history_rows, require_ending, write_rows

    wanted = [(file, make) for file, make in ((history, history_rows), (test, final_rows)) if file is not None]
    if not wanted:
        raise UserError("rft runs export: nothing to write; name a file with --history, --test or both")
    for file, _ in wanted:
        require_ending(file)
    store, trials = Store.default(), _trials(studies, runs)
    for file, make in wanted:
        rows = list(make(trials, store))
        if not rows:
            raise UserError(f"{file}: none of {len(trials)} trials has any row for it yet; rft runs ls shows them")
        write_rows(rows, file)
        there = {(row["study"], row["trial"]) for row in rows}
        typer.echo(f"{file}: {len(rows)} rows of {len(there)} of {len(trials)} trials")


add_command(
    app,
    list_trials,
    (
        "rft runs ls",
        "rft runs ls first second --sort eval/test/gold",
        "rft runs ls first --metric eval/test/gold --metric eval/test/length",
    ),
    "ls",
)
add_command(app, show, ("rft runs show first/ppo-s0", "rft runs show first/ppo-s0 --json"))
add_command(
    app,
    export,
    (
        "rft runs export first --test test.csv",
        "rft runs export first second --history history.parquet --test test.parquet",
    ),
)
