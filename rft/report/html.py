"""The report as one HTML file that opens offline: no script, style, font or image from elsewhere.

All text of models, users and files goes through jinja2's autoescaping; JSON islands escape ``<``, ``>``, ``&``
and ``'`` as well, so that a response such as ``</script>`` stays text.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

import rft
from rft.errors import UserError
from rft.report import figures, svg, wording
from rft.report.feedback import is_rule
from rft.report.load import Rows, StudyResults
from rft.store.space import disk_full_reason

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
SHOWN_PROMPTS = 24
SHORT_KEY = 8
STAGE_TITLES = {
    "questions": "practice questions",
    "sft": "start policy",
    "candidates": "answers to label",
    "preferences": "feedback",
    "reward_model": "reward model",
    "policy": "improvement",
    "evaluation": "final test",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One arm's answer to a shown prompt."""

    arm: str
    index: int
    response: str
    gold: float
    proxy: float
    kl: float
    length: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A prompt with every arm's answer to it."""

    prompt_id: str
    prompt: str
    answers: tuple[Answer, ...]


def write_report(results: StudyResults, summary: Mapping[str, Any], out_dir: Path) -> Path:
    """Write ``report.html`` and ``summary.json`` into `out_dir`, each whole or not at all; the page's path.

    Raises UserError if the folder cannot be written or the disk is full.
    """
    out_dir = Path(out_dir)
    page = render(results, summary)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _replace(out_dir / SUMMARY_FILE, text)
        _replace(out_dir / REPORT_FILE, page)
    except OSError as error:
        reason = disk_full_reason(error, out_dir) or error.strerror or str(error)
        raise UserError(
            f"the report cannot be written to {out_dir}: {reason}; free some room or choose another folder"
        ) from error
    return out_dir / REPORT_FILE


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    scratch = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        scratch.chmod(0o644)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def render(results: StudyResults, summary: Mapping[str, Any]) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rft.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        num=wording.number,
        span=wording.span,
        percent=wording.percent,
        duration=wording.duration,
        size=wording.size,
        brief=wording.brief,
        split_title=wording.title,
        key=lambda index: svg.key(index),
        stage_title=lambda stage: STAGE_TITLES.get(stage, ""),
        island=island,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        arm_index={arm: index for index, arm in enumerate(summary["arms"])},
        level=wording.level(summary),
        plots=figures.plots(summary),
        curves=figures.learning_curves(summary),
        learned_from=learned_from(summary),
        duels=duels(summary),
        shown=shown_prompts(results, summary),
        stages={name: stage_groups(stage) for name, stage in summary["stages"].items()},
        short=SHORT_KEY,
        version=rft.__version__,
    )


def island(value: Any) -> Markup:
    """`value` as JSON that is safe inside ``<script type="application/json">``."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def shown_prompts(results: StudyResults, summary: Mapping[str, Any]) -> list[Shown]:
    """Prompts spread evenly over the first split, not picked by any score, with each arm's first-seed answer."""
    if not summary["splits"]:
        return []
    split = summary["splits"][0]
    rows = {arm: results.arm(arm)[0].rows[split] for arm in summary["arms"]}
    first = next(iter(rows.values()))
    starts = [m for m in range(len(first.prompt_ids)) if m == 0 or first.prompt_ids[m] != first.prompt_ids[m - 1]]
    count = min(SHOWN_PROMPTS, len(starts))
    picked = [starts[i * len(starts) // count] for i in range(count)]
    return [
        Shown(
            prompt_id=first.prompt_ids[m],
            prompt=first.prompts[m],
            answers=tuple(_answer(arm, index, own, m) for index, (arm, own) in enumerate(rows.items())),
        )
        for m in picked
    ]


def _answer(arm: str, index: int, rows: Rows, m: int) -> Answer:
    return Answer(
        arm=arm,
        index=index,
        response=rows.responses[m],
        gold=float(rows.gold[m]),
        proxy=float(rows.proxy[m]),
        kl=float(rows.kl[m]),
        length=int(rows.length[m]),
        truncated=bool(rows.truncated[m]),
    )


def duels(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pair of arms without the control on the first split, the arm with the higher mean first."""
    found = []
    for split in summary["splits"][:1]:
        for entry in summary["pairs"][split]:
            names = entry["arm"], entry["against"]
            if summary["control"] not in names:
                first, second = names if entry["mean"] >= 0 else names[::-1]
                found.append(wording.pair(summary, split, first, second))
    return sorted(found, key=lambda duel: -duel["mean"])


def learned_from(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind of feedback: its arms, and what its labels and its reward model measured."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for stage in ("preferences", "reward_model"):
        for group in summary["feedback"][stage]:
            row = rows.setdefault(tuple(group["arms"]), {"arms": group["arms"], "source": group["source"]})
            row[stage] = group["metrics"]
            if is_rule(group):
                row["rule"] = group["reward"]
    return [{"preferences": {}, "reward_model": {}, "rule": "", **row} for row in rows.values()]


def stage_groups(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The stage with a letter for every distinct set of results: arms with one letter used the same."""
    letters: dict[tuple[tuple[str, str], ...], str] = {}
    cells = {}
    for arm, uses in stage["arms"].items():
        identity = tuple((use["key"], use["digest"]) for use in uses)
        if uses and identity not in letters:
            letters[identity] = chr(ord("A") + len(letters) % 26)
        cells[arm] = {"letter": letters.get(identity, ""), "uses": uses}
    return {**stage, "cells": cells}
