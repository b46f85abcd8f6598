"""What making a report imports, which takes a second: to be had while there is nothing else to do."""

from __future__ import annotations

import importlib

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
    """Import them now; where they are used they are imported late, which other commands need not pay."""
    for name in LIBRARIES:
        importlib.import_module(name)
