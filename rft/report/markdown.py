"""The report as GitHub-flavoured Markdown, for pull requests: verdict, numbers, pairs, costs, what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rft.report import judge_views, views, wording
from rft.report.feedback import excluded
from rft.report.label_quality import quality_sentences
from rft.report.selection import ranked
from rft.report.wording import duration, number, percent, span

PAIRS = 20
MARKS = {"better": "🟢 better", "worse": "🔴 worse", "cannot tell": "🟡 cannot tell", "no verdict": "⚪ no verdict"}


def escape(text: str) -> str:
    """`text` as Markdown shows it letter by letter, in one line: no markup, no HTML, no link, no mention."""
    flat = " ".join(text.split())
    flat = re.sub(r"[&<>@#]", lambda found: f"&#{ord(found[0])};", flat)
    flat = re.sub(r"(https?|www)([:.])", lambda found: f"{found[1]}&#{ord(found[2])};", flat)
    return re.sub(r"([\\`*_{}\[\]|~!])", r"\\\1", flat)


def markdown(summary: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The report as text; `figures` are the pictures to show, by their paths from the report."""
    parts = [
        f"# {escape(summary['study'])}: which algorithm is better?",
        f"**{escape(summary['verdict']['headline'])}**",
        escape(summary["cost"]["sentence"]),
        "\n".join(f"- {escape(note)}" for note in views.budget_notes(summary)),
        _left_out(summary),
        *(_split(summary, split) for split in summary["splits"]),
        "\n".join(f"- {escape(one)}" for one in (*summary["verdict"]["sentences"], *views.judge_notes(summary))),
        *(f"![{name}]({name})" for name in figures),
        _judges(summary),
        _pairs(summary),
        _costs(summary),
        _fine_print(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; the first `left` columns are aligned to the left, the others to the right. Cells are Markdown."""
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _interval(interval: Mapping[str, Any] | None, digits: int = 3, *, sign: bool = False) -> str:
    if not interval:
        return ""
    mean = number(interval["mean"], digits, sign=sign)
    return mean if interval.get("low") is None else f"{mean} ({span(interval, digits, sign=sign)})"


def _share(interval: Mapping[str, Any] | None) -> str:
    return percent(interval["mean"]) if interval else ""


def _split(summary: Mapping[str, Any], split: str) -> str:
    control = summary["control"]
    arms = summary["arms"]
    prompts = next(iter(arms.values()))["n_prompts"][split]
    against = [f"minus {escape(control)}", "Holm p", "verdict", "wins", "wins at equal length"] if control else []
    rows = []
    for arm in ranked(summary):
        row = arms[arm]["splits"][split]
        difference = row["difference"]
        compared = []
        if control:
            compared = ["", "", "control", "", ""] if not difference else [
                _interval(difference, sign=True), escape(wording.p_figure(difference.get("holm_p"))),
                MARKS.get(difference["verdict"], difference["verdict"]),
                _share(row.get("win_rate")), _share(row.get("win_rate_lc")),
            ]  # fmt: skip
        scored = [_interval(row["judge"])] if summary["eval_judge"] else []
        if scored and control:
            scored.append(_interval((row["judge"] or {}).get("difference"), sign=True))
        rows.append(
            [escape(arm), _interval(row["gold"]), number((row.get("iqm") or {}).get("mean"), 3), *compared, *scored,
             number(row["kl"], 1), number(row["length"], 1), str(len(arms[arm]["seeds"]))]
        )  # fmt: skip
    level = wording.level(summary)
    heading = f"## {escape(split)}: {escape(wording.title(split))}, {prompts} prompts"
    scores = ["judge", *([f"judge minus {escape(control)}"] if control else [])] if summary["eval_judge"] else []
    columns = ["arm", f"gold reward ({level} interval)", "IQM", *against, *scores, "KL, nats", "length", "seeds"]
    return f"{heading}\n\n{table(columns, rows)}"


def _pairs(summary: Mapping[str, Any]) -> str:
    found = views.duels(summary)
    if not found:
        return ""
    rows = [
        [f"{escape(duel['arm'])} against {escape(duel['against'])}", _interval(duel, sign=True),
         escape(wording.p_figure(duel.get("holm_p"))),
         MARKS.get(duel["verdict"], duel["verdict"]), _share(duel.get("win_rate"))]
        for duel in found[:PAIRS]
    ]  # fmt: skip
    more = f"\n\nThe {PAIRS} largest differences of {len(found)}." if len(found) > PAIRS else ""
    body = table(["pair", "difference in gold reward", "Holm p", "verdict", "wins"], rows)
    return f"<details><summary>Arm against arm</summary>\n\n{body}{more}\n\n</details>"


def _costs(summary: Mapping[str, Any]) -> str:
    found = views.budget(summary)
    if found:
        rows = [
            [escape(row["arm"]), title, *cells, row["stopped_by"] if i == 0 else ""]
            for row in found["rows"]
            for i, (title, cells) in enumerate(row["kinds"])
        ]
        body = table(["arm", "a seed", *found["resources"], "stopped by"], rows, left=2)
        body += f"\n\n{escape(views.LABELS_NOTE)}"
    else:
        costs = summary["cost"]["arms"]
        rows = [
            [escape(arm), duration(costs[arm]["own_seconds_per_seed"]), duration(costs[arm]["shared_seconds_per_seed"])]
            for arm in summary["arms"]
        ]
        body = table(["arm", "own time a seed", "shared stages"], rows)
    told = views.eval_judge_cost(summary)
    return f"## What it cost\n\n{body}" + (f"\n\n{escape(told)}" if told else "")


def _judges(summary: Mapping[str, Any]) -> str:
    """The audits, who could label at what price, and what the quality of the labels does."""
    told = [*judge_views.unaudited(summary), *excluded(summary["feedback"]), *quality_sentences(summary)]
    parts = ["\n".join(f"- {escape(sentence)}" for sentence in told), _audits(summary)]
    if rows := judge_views.economics(summary):
        cells = [
            [
                escape(row["source"]),
                escape(row["judge"]),
                row["people"],
                two(row["agreement"], row["range"]),
                row["cost"],
            ]
            for row in rows
        ]
        parts.append(table(["who labels", "judge", "labelled by people", "agreement", "cost a label"], cells, left=2))
    parts.append(_quality(summary))
    known = [part for part in parts if part]
    return "\n\n".join(["## The judges and their labels", *known]) if known else ""


def _audits(summary: Mapping[str, Any]) -> str:
    found = judge_views.judges(summary)
    if found is None:
        return ""
    heads = [
        "<br>".join(
            escape(text) for text in (head["title"], head["model"], f"taught {head['arms']}", head["results"]) if text
        )
        for head in found["heads"]
    ]
    rows = [[row.name, *(two(*cell) for cell in row.cells), row.good] for row in found["rows"]]
    return table(["what was asked", *heads, "what is good"], rows, left=2 + len(heads))


def two(value: str, note: str) -> str:
    """A cell of a figure and what is said beside it."""
    return f"{escape(value)} ({escape(note)})" if note else escape(value)


def _quality(summary: Mapping[str, Any]) -> str:
    rows = [
        [escape(line["optimiser"]), escape(point["arm"]), percent(point["agreement"]), _interval(point["gold"])]
        for line in summary["label_quality"] or ()
        for point in line["points"]
    ]
    return table(["optimiser", "arm", "labels agree with gold", "gold reward"], rows, left=2) if rows else ""


def _left_out(summary: Mapping[str, Any]) -> str:
    lines = views.warnings(summary)
    lines += [f"left out: {trial['trial']}: {wording.brief(trial['error'])}" for trial in summary["failed"]]
    return "> [!WARNING]\n" + "\n".join(f"> - {escape(line)}" for line in lines) if lines else ""


def _fine_print(summary: Mapping[str, Any]) -> str:
    covers = summary["statistics"].get("covers_text") or summary["statistics"]["method"]
    words = [f"Intervals: {wording.level(summary)}; {covers}"]
    words += [f"{title}: {text}" for title, text in views.machine(summary)]
    return "<sub>" + "<br>".join(escape(word) for word in words) + "</sub>"
