"""The comparison as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rft.report.wording import level, number, percent, span, title

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"better": "green", "worse": "red", "cannot tell": "yellow", "no verdict": "dim"}


def print_table(summary: Mapping[str, Any], console: Console) -> None:
    """Print the headline, one table a split (test first), and what was left out."""
    from rich.text import Text

    for split in summary["splits"]:
        console.print(_table(summary, split))
    console.print(Text(summary["verdict"]["headline"], style="bold"))
    for sentence in summary["verdict"]["sentences"]:
        console.print(Text(f"  {sentence}"))
    for trial in summary["failed"]:
        console.print(Text(f"  left out: {trial['trial']}: {trial['error']}", style="red"))


def _table(summary: Mapping[str, Any], split: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    control = summary["control"]
    table = Table(title=f"{split}: {title(split)}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for column in ("seeds", "gold", f"{level(summary)} interval"):
        table.add_column(column, justify="right", no_wrap=True)
    if control:
        table.add_column(f"minus {control}", justify="right", no_wrap=True)
        table.add_column(f"{level(summary)} interval", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
    for column in ("proxy", "KL nats", "length", "cut off", "distinct-2"):
        table.add_column(column, justify="right")
    for arm, record in summary["arms"].items():
        numbers = record["splits"][split]
        row = [
            Text(arm),
            Text(str(len(record["seeds"]))),
            Text(number(numbers["gold"]["mean"], 3)),
            Text(span(numbers["gold"], 3)),
        ]
        row += _difference_cells(numbers["difference"]) if control else []
        row += [
            Text(number(numbers["proxy"])),
            Text(number(numbers["kl"], 1)),
            Text(number(numbers["length"], 1)),
            Text(percent(numbers["truncation"])),
            Text(number(numbers["distinct_2"])),
        ]
        table.add_row(*row)
    return table


def _difference_cells(difference: Mapping[str, Any] | None) -> list[Text]:
    from rich.text import Text

    if difference is None:
        return [Text(""), Text(""), Text("control", style="dim")]
    return [
        Text(number(difference["mean"], 3, sign=True)),
        Text(span(difference, 3, sign=True)),
        Text(difference["verdict"], style=STYLES[difference["verdict"]]),
    ]
