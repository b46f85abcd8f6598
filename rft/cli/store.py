"""``rft store``: look at the store of computed stages, check it, and clear it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from rft.store import Store

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200

app = typer.Typer(name="store", no_args_is_help=True, help="Look at, check and clear the store of computed stages.")


@app.command("ls")
def list_entries() -> None:
    """List the entries: what they take, what they cost and what they were made from."""
    from rich.table import Table

    store = Store.default()
    entries = list(store.entries())
    out = console()
    if not entries:
        out.print(f"The store at {store.root} is empty.", soft_wrap=True, highlight=False)
        return
    table = Table(box=None, header_style="bold")
    for name in ("stage", "key"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "age", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("inputs", overflow="fold")
    now = datetime.now(UTC)
    for entry in entries:
        made_from = " ".join(f"{name}={key[:12]}" for name, key in sorted(entry.inputs.items()))
        cells = (human_bytes(entry.size), human_age(now - entry.created), f"{entry.cost['seconds']:.1f}")
        table.add_row(entry.stage, entry.key[:12], *cells, made_from)
    out.print(table)
    total = human_bytes(sum(entry.size for entry in entries))
    seconds = sum(entry.cost["seconds"] for entry in entries)
    out.print(f"{len(entries)} entries, {total}, {seconds:.0f} s, in {store.root}", soft_wrap=True, highlight=False)


@app.command()
def verify() -> None:
    """Hash every file again; exit code 1 if one is not what was written."""
    store = Store.default()
    count = sum(1 for _ in store.entries())
    problems = store.verify()
    for problem in problems:
        typer.echo(f"corrupt: {problem}")
    if problems:
        entries = len({problem.path for problem in problems})
        typer.echo(f"{entries} corrupt {'entry' if entries == 1 else 'entries'}; rft will recompute it when needed.")
        raise typer.Exit(1)
    typer.echo(f"All {count} entries in {store.root} match their sha256.")


@app.command()
def gc(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Remove entries older than this."),
    ] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Remove this stage's entries (repeat).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every entry.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove leftovers of killed runs and corrupt entries, and the entries that the options name.

    With --older-than and --stage together, entries go that meet both.
    """
    from rft.errors import UserError

    if everything and (stage or older_than is not None):
        raise UserError("--all goes without --stage and --older-than; leave one of them out")
    store = Store.default()
    _require_stages(store, stage or [])
    age = None if older_than is None else timedelta(days=older_than)
    removed = store.gc(older_than=age, stages=stage or (), everything=everything, dry_run=dry_run)
    for item in removed:
        typer.echo(f"{item.kind:<10} {human_bytes(item.bytes):>9}  {item.path.relative_to(store.root)}")
    total = human_bytes(sum(item.bytes for item in removed))
    typer.echo(f"{'Would remove' if dry_run else 'Removed'} {len(removed)} folders, {total}, in {store.root}")


def _require_stages(store: Store, wanted: list[str]) -> None:
    import difflib

    from rft.errors import UserError

    present = store.stages()
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(present) or 'none'}"
            raise UserError(f"--stage {name}: the store has no entries of that stage; {hint}")


def console(piped: int = PIPE_WIDTH) -> Console:
    """Standard output for tables: the terminal's width or, when piped, columns that by default cut no key."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else piped)


def human_bytes(count: float) -> str:
    """`count` bytes in decimal units: ``92.9 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_age(age: timedelta) -> str:
    """`age` in its largest whole unit: ``3 d``."""
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
