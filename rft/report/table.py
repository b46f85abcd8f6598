"""The comparison in the terminal, at any width: figures stay whole, columns that do not fit go to a table below."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rft.report import judge_views, views
from rft.report.feedback import excluded, is_rule
from rft.report.label_quality import quality_sentences
from rft.report.wording import brief, level, listing, number, p_figure, percent, shortlist, span, title

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"better": "green", "worse": "red", "cannot tell": "yellow", "no verdict": "dim", "control": "dim"}
GAP = 2
ARM_WIDTH = 14
"""What an arm's name keeps at least of its place; a longer one goes on in the next line of its row."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, a cell an arm, and how the cells are aligned."""

    heading: str
    cells: tuple[str, ...]
    justify: str = "right"

    @property
    def width(self) -> int:
        """Characters of the longest cell, the heading included."""
        return max(len(text) for text in (self.heading, *self.cells))


def print_table(summary: Mapping[str, Any], console: Console) -> None:
    """Print the tables of each split (test first), the verdict with its cost, and what was left out."""
    arms = Column("arm", tuple(summary["arms"]), "left")
    for split in summary["splits"]:
        prompts = next(iter(summary["arms"].values()))["n_prompts"][split]
        _say(console, f"{split}: {title(split)}, {prompts} prompts", "bold")
        for columns in pack(_groups(summary, split), console.width - min(arms.width, ARM_WIDTH)):
            console.print(_table(arms, columns, console.width))
            console.print()
    _say(console, summary["cost"]["headline"], "bold")
    _say(console, summary["cost"]["sentence"])
    for note in views.budget_notes(summary):
        _say(console, note)
    judged = (
        *views.judge_notes(summary),
        *excluded(summary["feedback"]),
        *judge_views.lines(summary),
        *quality_sentences(summary),
    )
    for sentence in (*summary["verdict"]["sentences"], *_feedback(summary), *judged, *_covered(summary)):
        _say(console, sentence, indent=2)
    for trial in summary["failed"]:
        _say(console, f"left out: {trial['trial']}: {brief(trial['error'])}", "red", indent=2)


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print a sentence, wrapped in a terminal; in a file or a pipe it is one line, so that it can be searched for."""
    from rich.padding import Padding
    from rich.text import Text

    if console.is_terminal:
        console.print(Padding(Text(text, style=style), (0, 0, 0, indent), expand=False))
    else:
        console.print(Text(" " * indent + text), soft_wrap=True)


def pack(groups: Sequence[Sequence[Column]], width: int) -> list[list[Column]]:
    """Put groups of columns side by side as long as they fit into `width` characters, then into a next table."""
    tables: list[list[Column]] = []
    room = 0
    for group in groups:
        wanted = sum(column.width + GAP for column in group)
        if not tables or wanted > room:
            tables.append([])
            room = width
        tables[-1] += group
        room -= wanted
    return tables


def _groups(summary: Mapping[str, Any], split: str) -> list[list[Column]]:
    """The columns of a split; those of a group belong together."""
    numbers = [record["splits"][split] for record in summary["arms"].values()]
    seeds = [len(record["seeds"]) for record in summary["arms"].values()]
    interval = f"{level(summary)} interval"
    groups = [[_column("gold", numbers, "gold", _mean), _column(interval, numbers, "gold", _span)]]
    if summary["control"]:
        groups.append(
            [
                _column(f"minus {summary['control']}", numbers, "difference", lambda d: _mean(d, sign=True)),
                _column(interval, numbers, "difference", lambda d: _span(d, sign=True)),
                _column("Holm p", numbers, "difference", lambda d: p_figure(d["holm_p"]) if d else ""),
                _column("verdict", numbers, "difference", lambda d: d["verdict"] if d else "control", "left"),
            ]
        )
    groups.append(
        [_column("KL nats", numbers, "kl", lambda x: number(x, 1)), _column("proxy", numbers, "proxy", number)]
    )
    if summary["eval_judge"]:
        judged = [row["judge"] or {} for row in numbers]
        groups.append([_column("judge", numbers, "judge", _mean), _column(interval, numbers, "judge", _span)])
        if summary["control"]:
            groups[-1] += [
                _column(f"judge minus {summary['control']}", judged, "difference", lambda d: _mean(d, sign=True)),
                _column(interval, judged, "difference", lambda d: _span(d, sign=True)),
            ]
    groups.append(
        [
            _column("length", numbers, "length", lambda x: number(x, 1)),
            _column("cut off", numbers, "truncation", percent),
            _column("distinct-2", numbers, "distinct_2", number),
            Column("seeds", tuple(map(str, seeds))),
        ]
    )
    return groups


def _column(
    heading: str, numbers: Sequence[Mapping[str, Any]], name: str, write: Any, justify: str = "right"
) -> Column:
    return Column(heading, tuple(write(row.get(name)) for row in numbers), justify)


def _mean(interval: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    return number(interval["mean"], 3, sign=sign) if interval else ""


def _span(interval: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    return span(interval, 3, sign=sign) if interval else ""


def broken(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` characters, broken behind a hyphen, comma or underscore where there is one."""
    lines = [""]
    for piece in re.findall(r"[^-,_]*[-,_]|[^-,_]+", name):
        if len(lines[-1]) + len(piece) > width and lines[-1]:
            lines.append("")
        while len(piece) > width:
            lines[-1], piece = piece[:width], piece[width:]
            lines.append("")
        lines[-1] += piece
    return [line for line in lines if line]


def _table(arms: Column, columns: Sequence[Column], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column(arms.heading, overflow="fold")
    room = max(ARM_WIDTH, width - sum(column.width + GAP for column in columns))
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True)  # type: ignore[arg-type]
    for cells in zip(arms.cells, *(column.cells for column in columns), strict=True):
        table.add_row(
            Text("\n".join(broken(cells[0], room))), *(Text(cell, style=STYLES.get(cell, "")) for cell in cells[1:])
        )
    return table


def _feedback(summary: Mapping[str, Any]) -> list[str]:
    """One sentence for each reward source that says how good it is."""
    sentences = []
    for group in summary["feedback"]["reward_model"]:
        metrics = group["metrics"]
        parts = [
            f"{percent(metrics[name]['mean'])} of {of}"
            for name, of in (("heldout_accuracy", "labels it never saw"), ("human_accuracy", "real human pairs"))
            if name in metrics
        ]
        if parts:
            whose = f"{group['source']} feedback" if group["source"] else "the feedback"
            ceiling = f" (one human: {percent(metrics['human_ceiling']['mean'])})" if "human_ceiling" in metrics else ""
            what = f"reward {group['reward']}, beside {whose}" if is_rule(group) else f"reward model from {whose}"
            sentences.append(f"{what} ({shortlist(group['arms'])}): right on {listing(parts)}{ceiling}.")
    return sentences


def _covered(summary: Mapping[str, Any]) -> list[str]:
    """What the intervals cover, in a sentence."""
    return [f"{level(summary)} intervals: {summary['statistics']['covers_text']}"] if summary["splits"] else []
