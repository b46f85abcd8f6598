"""``rft watch``: a study in the terminal, while it runs."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rft.cli.examples import add_command
from rft.cli.store import console
from rft.cli.sweeps import Study, study_folder

if TYPE_CHECKING:
    from rft.study.watched import Watched

BROKEN_OFF = 128 + signal.SIGINT


def watch(
    study: Study,
    metric: Annotated[
        list[str] | None, typer.Option(help="A curve to show, as train/loss; may be given again.")
    ] = None,
    until_done: Annotated[
        bool,
        typer.Option("--until-done", help="End when nobody is at work on it; exit code 1 if a trial did not end well."),
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    runs: Annotated[Path, typer.Option(help="Where trials are kept.")] = Path("runs"),
) -> None:
    """Watch a study: the state of each trial, how far it is, and its curves. Ctrl-C ends the watch, not the trials.

    Without a terminal it prints how things stand once; with --until-done, at the end.
    """
    from rft.study.watched import Watched

    watched = Watched(study_folder(study, runs))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the cursor comes back
    try:
        well = _watch(watched, metric or [], every, until_done=until_done)
    except KeyboardInterrupt:
        raise typer.Exit(BROKEN_OFF if until_done else 0) from None
    if until_done and not well:
        raise typer.Exit(1)


def _watch(watched: Watched, metrics: list[str], every: float, *, until_done: bool) -> bool:
    """Show a study until it has ended, or once without a terminal; whether all trials ended well."""
    from rich.live import Live

    from rft.study.picture import Frame, picture
    from rft.study.sparkline import levels_for

    out = console()
    levels = levels_for(out.encoding)
    if not out.is_terminal or out.is_dumb_terminal:
        while (look := watched.look()).at_work and until_done:
            time.sleep(every)
        out.print(picture(watched, look, Frame(out.width, None, levels, metrics)))
        return look.all_done
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            look = watched.look()
            live.update(picture(watched, look, Frame(out.width, out.height, levels, metrics)), refresh=True)
            if until_done and not look.at_work:
                return look.all_done
            time.sleep(every)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    examples = (
        "rft watch first",
        "rft watch first --metric train/loss --metric rollout/kl",
        "rft watch first --until-done && rft compare first --no-run",
    )
    add_command(app, watch, examples)
