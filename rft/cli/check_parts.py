"""``rft check``: whether a reward source, judge, feedback source or task keeps to what the rest relies on."""

from __future__ import annotations

from collections.abc import Sequence


def check(group: str, name: str, overrides: Sequence[str]) -> None:
    """Print one row a check, with the file and line of those that failed.

    Raises:
        typer.Exit: with code 1 if a check failed.
        UserError: if there is no such option.
    """
    import typer
    from rich.table import Table
    from rich.text import Text

    from rft.cli.store import console
    from rft.runtime import prepare_process

    prepare_process()
    from rft.testing.parts import check_part

    rows = check_part(group, name, overrides)
    table = Table(box=None, header_style="bold", title=f"{group}={name}", title_justify="left")
    table.add_column("check", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for row in rows:
        verdict = Text("ok", style="green") if row.ok else Text("FAILED", style="bold red")
        table.add_row(Text(row.name), verdict, Text(row.detail))
    out = console()
    out.print(table)
    failed = [row for row in rows if not row.ok]
    out.print(f"{len(rows) - len(failed)} of {len(rows)} checks passed", highlight=False)
    for row in failed:
        # Below the table and unwrapped, so that a terminal makes a link of it.
        out.print(f"{row.name}: look at {row.where}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
