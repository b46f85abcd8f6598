"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of ``rft``: a user's fault is one line on stderr and exit code 2."""
    from rft.errors import UserError
    from rft.secrets import scrubbed

    try:
        if sys.argv[1:2] and sys.argv[1] in ("-sc", "--shell-completion"):
            from rft.cli.completion import complete

            complete(sys.argv[1:])
        else:
            from rft.cli.app import app

            app(standalone_mode=True)
    except UserError as error:
        # The further processes of a distributed trial meet the same fault; the first one says it.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"rft: {scrubbed(str(error))}\n")
        sys.exit(2)
    except Exception:  # of a trial of a study it goes to a file
        sys.stderr.write(scrubbed(traceback.format_exc()))
        sys.exit(1)
    sys.exit(0)
