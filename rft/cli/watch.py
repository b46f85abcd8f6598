"""``rft watch``: a study in the terminal, while it runs."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rft.cli.examples import add_command
from rft.cli.store import console
from rft.cli.sweeps import Study, study_folder

if TYPE_CHECKING:
    from rft.study.watched import Watched

PULSE = 0.1
"""Seconds between looks at whether somebody has asked the watch to end."""


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

    watched, asked = Watched(study_folder(study, runs)), _Asked()
    well = _watch(watched, metric or [], every, asked, until_done=until_done)
    if asked.number == signal.SIGTERM or (asked.number and until_done):
        raise typer.Exit(128 + asked.number)
    if until_done and not well:
        raise typer.Exit(1)


class _Asked:
    """Whether somebody has asked the watch to end, by Ctrl-C or SIGTERM; the second time it ends at once.

    An exception in their place may come where Python drops it, in a finaliser, and may leave the cursor hidden.
    """

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background
                signal.signal(number, self._told)

    def _told(self, number: int, _: object) -> None:
        self.number = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Wait; whether somebody has asked."""
        end = time.monotonic() + seconds
        while not self.number and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, PULSE))
        return bool(self.number)


def _watch(watched: Watched, metrics: list[str], every: float, asked: _Asked, *, until_done: bool) -> bool:
    """Show a study until it has ended, or once without a terminal; whether all trials ended well."""
    from rich.live import Live

    from rft.study.picture import Frame, picture
    from rft.study.sparkline import levels_for

    out = console()
    levels = levels_for(out.encoding)
    if not out.is_terminal or out.is_dumb_terminal:
        while (look := watched.look()).at_work and until_done and not asked.wait(every):
            pass
        out.print(picture(watched, look, Frame(out.width, None, levels, metrics)))
        return look.all_done
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            look = watched.look()
            live.update(picture(watched, look, Frame(out.width, out.height, levels, metrics)), refresh=True)
            if asked.wait(0 if until_done and not look.at_work else every) or (until_done and not look.at_work):
                return look.all_done


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    examples = (
        "rft watch first",
        "rft watch first --metric train/loss --metric rollout/kl",
        "rft watch first --until-done && rft compare first --no-run",
    )
    add_command(app, watch, examples)
