"""``rft plugins``: what installed packages add, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rft.config.options import Fault
    from rft.config.plugins import Plugin

app = typer.Typer(name="plugins", invoke_without_command=True, help="List installed plugins.")


@app.callback()
def plugins(context: typer.Context) -> None:
    """List installed plugins: their options, version, distribution, and what is wrong with them.

    Example: rft plugins
    """
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("ls")
def list_plugins() -> None:
    """List installed plugins: their options, version, distribution, and what is wrong with them.

    Each is imported, in a process of its own: what fails only then is told here.
    """
    from rich.table import Table

    from rft.cli.store import console
    from rft.config.options import faults
    from rft.config.plugins import plugins as installed
    from rft.config.trying import tried_faults

    found, out = installed(), console()
    if not found:
        out.print("No plugins are installed; `rft new algorithm NAME` writes one.", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, header_style="bold")
    for name in ("plugin", "distribution", "version", "installed"):
        table.add_column(name, no_wrap=True)
    table.add_column("options", overflow="fold")
    table.add_column("state", no_wrap=True)
    wrong = (*faults(), *tried_faults())
    for plugin in found:
        names = [f"{group}={name}" for group, name in _options(plugin)]
        state = "fault" if _faulty(plugin, wrong) else "ok"
        kind = "editable" if plugin.editable else "normal"
        cells = (", ".join(plugin.names), plugin.distribution, plugin.version, kind, ", ".join(names) or "none", state)
        table.add_row(*cells)
    out.print(table, highlight=False)
    for fault in wrong:
        out.print(f"fault: {fault.text}", highlight=False, markup=False, soft_wrap=True)


def _options(plugin: Plugin) -> list[tuple[str, str]]:
    from rft.config.options import options

    return [option.key for option in options() if option.plugin == plugin]


def _faulty(plugin: Plugin, wrong: Sequence[Fault]) -> bool:
    """Whether something is wrong with a plugin, or with an option that another one has too."""
    own = set(_options(plugin))
    return any(fault.options & own or fault.text.startswith(f"{plugin}: ") for fault in wrong)
