"""Commands whose help ends with examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import typer


def add_command(
    app: typer.Typer, command: Callable[..., None], examples: Sequence[str], name: str | None = None
) -> None:
    """Add a command, with its docstring and examples as its help.

    Args:
        app: to which.
        command: the function.
        examples: whole command lines.
        name: of the command, if it is not the function's.
    """
    shown = "\n\n".join(f"  {example}" for example in examples)
    app.command(name, help=f"{inspect.getdoc(command)}\n\nExamples:\n\n{shown}")(command)
