"""Write a report: the page, the Markdown, the summary and the figures, each file whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft.errors import UserError
from rft.report import figures, learning
from rft.report.figures import Figure
from rft.report.html import render
from rft.report.images import images
from rft.report.judge_figures import judge_figures
from rft.report.load import StudyResults
from rft.report.markdown import markdown
from rft.store.space import disk_full_reason

REPORT_FILE = "report.html"
MARKDOWN_FILE = "report.md"
SUMMARY_FILE = "summary.json"
FIGURES_FOLDER = "figures"
INDENTED = 3
"""Levels of the summary that have a line for every entry; what is deeper is in one line."""


def write_report(results: StudyResults, summary: Mapping[str, Any], out_dir: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``summary.json`` and ``figures/`` into `out_dir`; the page's path.

    Raises UserError if the folder cannot be written or the disk is full.
    """
    out_dir = Path(out_dir)
    pictures = images(panels(summary), list(summary["arms"]))
    shown = [f"{FIGURES_FOLDER}/{name}" for name in pictures if name in ("forest.svg", "frontier.svg")]
    text = lines(summary) + "\n"
    files: dict[str, bytes] = {
        SUMMARY_FILE: text.encode("utf-8", errors="replace"),
        MARKDOWN_FILE: markdown(summary, shown).encode("utf-8", errors="replace"),
        **{f"{FIGURES_FOLDER}/{name}": content for name, content in pictures.items()},
        REPORT_FILE: render(results, summary, pictures, text).encode("utf-8", errors="replace"),
    }
    try:
        (out_dir / FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _replace(out_dir / name, content)
    except OSError as error:
        full = disk_full_reason(error, out_dir)
        reason, mend = full or error.strerror or str(error), "free some room or " if full else ""
        raise UserError(f"the report cannot be written to {out_dir}: {reason}; {mend}choose another folder") from error
    return out_dir / REPORT_FILE


def panels(summary: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """The pictures by file name, and the figures that stand side by side in each."""
    found = {figure.name: [figure] for figure in (*figures.final_test(summary), *judge_figures(summary))}
    main = [figure for figure in learning.curves(summary)[0] if any(one.x for one in figure.series)]
    return {**found, "curves": main} if main else found


def lines(value: Any, depth: int = INDENTED, indent: str = "") -> str:
    """`value` as JSON that a person can find the way in, written fast: indented to `depth`, compact below."""
    if not depth or not isinstance(value, Mapping | list) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = indent + "  "
    if isinstance(value, Mapping):
        entries = [
            f"{json.dumps(str(key), ensure_ascii=False)}: {lines(one, depth - 1, deeper)}" for key, one in value.items()
        ]
        opening, closing = "{}"
    else:
        entries = [lines(one, depth - 1, deeper) for one in value]
        opening, closing = "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(entries) + f"\n{indent}{closing}"


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        scratch.chmod(0o644)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
