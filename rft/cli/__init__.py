"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of ``rft``: a user's fault is one line on stderr and exit code 2."""
    from rft.errors import UserError

    try:
        from rft.cli.app import app

        app(standalone_mode=True)
    except UserError as error:
        sys.stderr.write(f"rft: {error}\n")
        sys.exit(2)
    sys.exit(0)
