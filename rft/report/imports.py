"""What making a report imports, which takes a second: it need not be the last one of a study."""

from __future__ import annotations

import importlib
from contextlib import suppress

LIBRARIES = (
    "choix",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pandas",
    "plotly.offline",
    "pyarrow.parquet",
    "scipy.stats",
)


def import_libraries() -> None:
    """Import them now; where they are used they are imported late, which other commands need not pay.

    What cannot be imported is for the report to say: trials need none of it.
    """
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
