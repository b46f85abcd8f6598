"""``python -m rft``."""

from __future__ import annotations

import sys

from rft.cli import main
from rft.runtime import end_process


def exit_code(end: SystemExit) -> int:
    """What a process ends with that was to end so; a message is printed, as an interpreter does."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        end_process(exit_code(end))
