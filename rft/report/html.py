"""The report as one HTML file that opens offline: no script, style, font or image from elsewhere.

All text of models, users and files goes through jinja2's autoescaping; JSON islands escape ``<``, ``>``, ``&``
and ``'`` as well, so that a response such as ``</script>`` stays text. The page's policy lets only the two scripts
run whose hashes it names: one that came in with a text would not run even if it got past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import rft
from rft.report import figures, judge_views, learning, palette, plots, samples, views, wording
from rft.report.feedback import excluded
from rft.report.figures import Figure
from rft.report.judge_figures import judge_figures
from rft.report.load import StudyResults
from rft.report.resources import name
from rft.report.selection import leading, left_out, ranked

if TYPE_CHECKING:
    import jinja2

SHORT_KEY = 8
ISLAND_LIMIT = 4_000_000
"""Characters of the summary up to which the page carries it; a larger one is only beside it, as summary.json."""
STAGE_TITLES = {
    "questions": "practice questions",
    "sft": "start policy",
    "candidates": "answers to label",
    "revisions": "revised start",
    "preferences": "feedback",
    "audit": "audit of the judge",
    "trunk_rated": "lowest layers on the human ratings",
    "reward_model": "reward model",
    "reference": "reference's log-probs",
    "reference_mismatched": "reference's log-probs of mismatched answers",
    "policy": "improvement",
    "evaluation": "final test",
}


def render(
    results: StudyResults,
    summary: Mapping[str, Any],
    pictures: Mapping[str, bytes] | None = None,
    summary_text: str | None = None,
) -> str:
    """The page as text.

    `pictures` are the image files by name, of which the forest is shown where no script runs; `summary_text` is
    the summary as JSON if it has been written already.
    """
    final, (main, more) = figures.final_test(summary), learning.curves(summary)
    others = {one.name: one for one in (figures.ranking(summary), learning.tuning(summary)) if one}
    others |= {one.name: one for one in judge_figures(summary)}
    drawn = bool(final or others or main or more)
    scripts = {"plotly": plotly() if drawn else "", "page": _page_script()}
    whole = summary_text or json.dumps(summary, ensure_ascii=False, allow_nan=False)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            final=final,
            others=others,
            main_curves=main,
            more_curves=more,
            plots=island(_plots([*final, *others.values()], [*main, *more])),
            samples=samples.samples(results, summary),
            scripts={which: Markup(text) for which, text in scripts.items()},
            policy=_policy([text for text in scripts.values() if text]),
            summary_text=enclosed(whole) if len(whole) <= ISLAND_LIMIT else "",
            still=_still(pictures or {}),
            version=rft.__version__,
            palette=palette.style_sheet(),
            **_tables(summary),
        )
    )


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rft.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        p=wording.p_figure,
        num=wording.number,
        span=wording.span,
        percent=wording.percent,
        duration=wording.duration,
        bounds=views.bounds,
        brief=wording.brief,
        split_title=wording.title,
        key=palette.key,
        value=views.value,
        shortened=views.shortened,
        stage_title=lambda stage: STAGE_TITLES.get(stage, ""),
    )
    return environment


def _tables(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show in tables and sentences."""
    return {
        "arm_index": figures.numbering(summary),
        "ranked": ranked(summary),
        "level": wording.level(summary),
        "axes": {axis: name(axis) for axis in learning.axes(summary)},
        "axis": learning.preferred_axis(summary),
        "drawn_arms": leading(summary, figures.SCATTER_ARMS),
        "arms_left_out": left_out(summary, figures.SCATTER_ARMS),
        "laws": views.laws(summary),
        "other_proxy": views.other_proxy(summary),
        "matrix": views.win_matrix(summary),
        "two_way": _two_way(summary),
        "learned_from": views.learned_from(summary),
        "judge_notes": views.judge_notes(summary),
        "excluded": excluded(summary["feedback"]),
        "judges": judge_views.judges(summary),
        "unaudited": judge_views.unaudited(summary),
        "economics": judge_views.economics(summary),
        "quality": summary["label_quality"],
        "duels": views.duels(summary),
        "most_pairs": views.PAIRS,
        "budget": views.budget(summary),
        "budget_notes": views.budget_notes(summary),
        "most_notes": views.NOTES,
        "labels_note": views.LABELS_NOTE,
        "eval_judge_cost": views.eval_judge_cost(summary),
        "more_seeds": wording.more_seeds,
        "tuned": views.tuned(summary),
        "warnings": views.warnings(summary),
        "differences": (summary.get("provenance") or {}).get("differences") or [],
        "machine": views.machine(summary),
        "versions": (summary.get("environment") or {}).get("versions") or {},
        "stages": {which: views.stage_groups(stage) for which, stage in summary["stages"].items()},
        "short": SHORT_KEY,
    }


def _plots(still: Sequence[Figure], curves: Sequence[Figure]) -> dict[str, Any]:
    return {"figures": {one.name: plots.specification(one) for one in still}, "curves": plots.switchable(curves)}


def _two_way(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first split's table of feedback and optimiser, its cells by both."""
    found = (summary.get("two_way") or {}).get(summary["splits"][0]) if summary["splits"] else None
    if not found:
        return None
    return {**found, "cells": {(cell["feedback"], cell["optimiser"]): cell for cell in found["cells"]}}


def island(value: Any) -> Markup:
    """`value` as compact JSON that is safe inside ``<script type="application/json">``."""
    return enclosed(json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")))


def enclosed(text: str) -> Markup:
    """The JSON `text` with every character escaped that could end the element around it."""
    for character in "<>&'\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def plotly() -> str:
    """The script of plotly.js, as the package carries it."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n")


@cache
def _page_script() -> str:
    return (resources.files("rft.report") / "templates" / "report.js").read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing from anywhere, styles of the page, images inside it, and only these scripts."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src {hashes}"
    )


def _still(pictures: Mapping[str, bytes]) -> str:
    """The forest as an address that holds the picture; empty without it."""
    picture = pictures.get("forest.svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}" if picture else ""
