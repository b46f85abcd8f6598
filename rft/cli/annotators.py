"""``rft annotators``: the fit of the simulated annotators to real people, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _rows(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in metrics.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            found += _rows(value, f"{label}: ")
        else:
            found.append((label, f"{value:,}" if isinstance(value, int) else f"{float(value):.3f}"))
    return found


def annotators() -> None:
    """Fit through the store, then print a table: the model's numbers, people beside simulated annotators."""
    from rich.console import Console
    from rich.table import Table

    from rft.config import build, compose
    from rft.feedback.annotators import annotators_entry
    from rft.store import Store

    entry = annotators_entry(build(compose().task, store=Store.default()))
    table = Table("measure", "value", title="Simulated annotators, fitted to real human ratings")
    for name, value in _rows(entry.metrics):
        table.add_row(name, value)
    Console().print(table)
