"""``python -m rft``."""

from __future__ import annotations

from rft.cli import main

if __name__ == "__main__":
    main()
