"""``rft sync``: upload the W&B runs of studies that were kept on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rft.cli.examples import add_command
from rft.cli.store import console
from rft.cli.sweeps import warn

if TYPE_CHECKING:
    from rft.study.uploads import Upload


def sync(
    studies: Annotated[
        list[str], typer.Argument(help="Names under runs/, or folders: of studies, or of reports.", metavar="STUDY...")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be uploaded, and contact nobody.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON; with --dry-run alone.")] = False,
    project: Annotated[str | None, typer.Option(help="W&B project; if not given that of each run.")] = None,
    entity: Annotated[str | None, typer.Option(help="W&B team or user; if not given that of each run.")] = None,
    runs: Annotated[Path, typer.Option(help="Where trials are kept.")] = Path("runs"),
) -> None:
    """Upload the W&B runs of studies that are on this machine alone, with their artifacts.

    The runs of shared stages come first, then those of trials by their start, then the comparison, so that whatever is
    made from something else finds it. What was uploaded is marked: broken off, the command goes on where it was.
    """
    from rft.errors import UserError
    from rft.study.uploads import as_json as to_json
    from rft.study.uploads import folders, uploads

    if as_json and not dry_run:
        raise UserError("--json is for the list: give --dry-run too")
    found = uploads(folders(studies, runs))
    if as_json:
        typer.echo(to_json(found))
        return
    if dry_run:
        _show(found)
        return
    waiting = [one for one in found if one.waiting]
    for one in [one for one in waiting if one.running]:
        warn(f"{one.name} is running; upload it when it has ended")
    ready = [one for one in waiting if not one.running]
    if ready:
        _send(ready, project, entity)
    elif not found:
        where = ", ".join(studies)
        console().print(f"{where}: no W&B runs on this machine alone", highlight=False, markup=False)
    else:
        console().print(f"all {len(found)} runs are uploaded" if not waiting else "nothing else to upload")


def _show(found: list[Upload]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("run", "job type", "parts", "state")
    for one in found:
        state = "running" if one.running else "waiting" if one.waiting else "uploaded"
        table.add_row(Text(one.name), one.stage, str(len(one.parts)), state)
    out = console()
    out.print(table)
    out.print(f"{sum(bool(one.waiting) for one in found)} of {len(found)} runs to upload", highlight=False)


def _send(ready: list[Upload], project: str | None, entity: str | None) -> None:
    """Upload runs, one after another.

    Raises:
        UserError: without a key or a server, if the server is lost, or at the end for runs that could not be uploaded.
    """
    from rft.callbacks.trackers.upload import SILENT, Target, server, useless
    from rft.errors import UserError
    from rft.progress import bar
    from rft.study.uploads import send

    base = server()
    if reason := useless(base, SILENT):
        raise UserError(f"{reason}; nothing was uploaded")
    out, target, left = console(), Target(project, entity), list[str]()
    with bar("uploading", len(ready)) as progress:
        for number, one in enumerate(ready):
            out.print(f"{number + 1}/{len(ready)} {one.name}", highlight=False, markup=False)
            try:
                reason = send(one, base, target)
            except KeyboardInterrupt:
                warn(f"{number - len(left)} of {len(ready)} runs are uploaded; rft sync goes on with the others")
                raise
            if reason and useless(base, SILENT):
                more = f"{number - len(left)} of {len(ready)} runs are uploaded; rft sync goes on with the others"
                raise UserError(f"{one.name}: {reason}; {more}")
            progress.advance()
            left += [f"{one.name}: {reason}"] if reason else []
            if reason:
                out.print("not uploaded")
    if left:
        raise UserError(f"{len(ready) - len(left)} of {len(ready)} runs are uploaded; not {'; '.join(left)}")
    out.print(f"uploaded {len(ready)} runs to {base}", highlight=False, markup=False)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    examples = ("rft sync first", "rft sync first --dry-run", "rft sync first second --project mine --entity team")
    add_command(app, sync, examples)
