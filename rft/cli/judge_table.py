"""Audits for a terminal and as a file of Markdown, in the words of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rft.report.measures import NONE, Audit, Cell, Row, labels, measured, title

if TYPE_CHECKING:
    from rich.table import Table

NOTE = (
    "Shares have 95 % intervals. People are clear about a pair by what their mean ratings are apart, about a text by "
    "what their mean is from neutral."
)
LEAST = 12  # columns of characters, in which a line of figures is still one
OF_WORDS, OF_AUDIT = 45, 22  # what is asked and what is good, and one audit, with the lines between


def rows(audits: Sequence[Audit]) -> list[Row]:
    """What was measured, then who could label."""
    return [*measured(audits), *_labels(audits)]


def tables(audits: Sequence[Audit], width: int) -> list[Table]:
    """The audits side by side, as many in one table as can be read in a width, in columns of characters."""
    beside = max(1, (width - OF_WORDS) // OF_AUDIT)
    return [table(audits[start : start + beside]) for start in range(0, len(audits), beside)]


def table(audits: Sequence[Audit]) -> Table:
    """The audits side by side."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title="Audit of judges", header_style="bold", title_justify="left", show_lines=True, caption=NOTE)
    shown.add_column("what was asked", overflow="fold", min_width=LEAST)
    for audit in audits:
        shown.add_column(Text(_head(audit)), overflow="fold", min_width=LEAST)
    shown.add_column("what is good", overflow="fold", min_width=LEAST)
    for row in rows(audits):
        cells = [Text(value).append(f"\n{note}" if note else "", style="dim") for value, note in row.cells]
        shown.add_row(Text(row.name), *cells, Text(row.good))
    return shown


def markdown(audits: Sequence[Audit]) -> str:
    """The same as a Markdown table."""
    from rft.report.markdown import escape, two
    from rft.report.markdown import table as written

    lines = [[escape(row.name), *(two(*cell) for cell in row.cells), row.good] for row in rows(audits)]
    head = ["what was asked", *(escape(_head(audit)) for audit in audits), "what is good"]
    body = written(head, lines, left=len(head))
    return f"# Audit of judges\n\n{body}\n\n{NOTE}\n"


def _head(audit: Audit) -> str:
    model = f", {audit['model']}" if audit["model"] else ""
    return f"{title(audit)}{model}"


def _labels(audits: Sequence[Audit]) -> list[Row]:
    """Agreement with the majority of people, and the price."""
    found: list[dict[str, Cell]] = []
    for audit in audits:
        cells = dict[str, Cell]()
        for one in labels(audit):
            people = "" if one["people"] == NONE[0] else f", {one['people']} by people"
            note = "; ".join(part for part in (one["range"], f"{one['cost']} a label") if part)
            cells[f"labels of {one['source']}{people}"] = one["agreement"], note
        found.append(cells)
    names = dict.fromkeys(name for cells in found for name in cells)
    return [Row(name, "", [cells.get(name, NONE) for cells in found]) for name in names]
