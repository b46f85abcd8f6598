"""Tab completion: commands by us, what follows ``rft run`` by Hydra.

Hydra's scripts (``eval "$(rft run -sc install=bash)"``) know programs but no commands: the shell calls
``rft -sc query=bash`` with the line so far in COMP_LINE.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any


def complete(arguments: Sequence[str]) -> None:
    """Answer a shell that completes the line in COMP_LINE: one line of words, or one word a line for fish."""
    line = os.environ.get("COMP_LINE", "")
    if found := re.match(r"\s*(\S+)\s+run\s(.*)", line, re.DOTALL):
        from rft.cli.run import hydra_run

        os.environ["COMP_LINE"] = f"{found[1]} {found[2]}"  # Hydra takes the program off, and no more
        hydra_run(arguments)
        return
    separator = "\n" if "query=fish" in arguments else " "
    sys.stdout.write(separator.join(_commands(line)) + "\n")


def _commands(line: str) -> list[str]:
    """Commands with which the line's last word may go on."""
    import typer

    from rft.cli.app import app

    group: Any = typer.main.get_command(app)
    _, *words = line.split() or [""]
    start = words.pop() if words and not line.endswith(" ") else ""
    for word in words:
        group = getattr(group, "commands", {}).get(word)
    return sorted(name for name in getattr(group, "commands", {}) if name.startswith(start))
