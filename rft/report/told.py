"""The summary's numbers as trackers keep them: the arms and the comparisons as tables, single numbers by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INTERVALS = ("gold", "iqm", "win_rate", "win_rate_lc", "gap")
"""Of an arm, with their intervals."""
PLAIN = ("proxy", "kl", "length", "truncation", "distinct_2")
"""Of an arm, means over seeds and prompts."""
DECIDED = ("p_value", "holm_p", "verdict", "seeds_needed")
"""Of a difference between two arms, beside its interval."""
BOUNDS = ("mean", "low", "high")

Table = tuple[list[str], list[list[Any]]]


def _bounds(name: str) -> list[str]:
    return [name, f"{name} low", f"{name} high"]


def _interval(found: Mapping[str, Any] | None) -> list[Any]:
    return [(found or {}).get(bound) for bound in BOUNDS]


def arms_table(summary: Mapping[str, Any]) -> Table:
    """Columns and rows: each split and arm with its means, their intervals, and the difference to the control."""
    columns = ["split", "arm", "algorithm", "feedback", "seeds", "prompts"]
    columns += [column for name in INTERVALS for column in _bounds(name)]
    columns += [*PLAIN, *_bounds("difference"), *DECIDED, "intervals cover"]
    rows = []
    for split in summary["splits"]:
        for name, arm in summary["arms"].items():
            own, difference = arm["splits"][split], arm["splits"][split].get("difference") or {}
            row = [split, name, arm["algorithm"], arm["feedback"], len(arm["seeds"]), arm["n_prompts"][split]]
            row += [value for metric in INTERVALS for value in _interval(own.get(metric))]
            row += [own.get(metric) for metric in PLAIN]
            row += [*_interval(difference), *(difference.get(one) for one in DECIDED), own["gold"]["covers"]]
            rows.append(row)
    return columns, rows


def comparisons_table(summary: Mapping[str, Any]) -> Table:
    """Columns and rows: each split and pair of arms with their difference in gold reward and what follows from it."""
    others = ("probability_of_improvement", "win_rate", "win_rate_lc")
    columns = ["split", "arm", "against", *_bounds("difference"), *DECIDED]
    columns += [column for name in others for column in _bounds(name)] + ["intervals cover"]
    rows = []
    for split, pairs in summary["pairs"].items():
        for pair in pairs:
            row = [split, pair["arm"], pair["against"], *_interval(pair), *(pair.get(one) for one in DECIDED)]
            row += [value for metric in others for value in _interval(pair.get(metric))]
            rows.append([*row, pair.get("covers")])
    return columns, rows


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Single numbers by name, as ``test/ppo/gold`` with ``…/low`` and ``…/high``; what does not exist is left out."""
    return {name: float(value) for name, value in _numbers(summary) if value is not None}


def _numbers(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "verdict/settled", summary["verdict"]["settled"]
    yield "study/arms", len(summary["arms"])
    yield "study/trials", sum(len(arm["seeds"]) for arm in summary["arms"].values())
    yield "study/failed", len(summary["failed"])
    for name, arm in summary["arms"].items():
        for split, own in arm["splits"].items():
            at = f"{split}/{name}"
            for metric in ("gold", "difference", "win_rate"):
                for bound, value in zip(("", "/low", "/high"), _interval(own.get(metric)), strict=True):
                    yield f"{at}/{metric}{bound}", value
            yield f"{at}/p", (own.get("difference") or {}).get("holm_p")
            for metric in PLAIN:
                yield f"{at}/{metric}", own.get(metric)


def sentences(summary: Mapping[str, Any]) -> dict[str, str]:
    """The verdict in words: the headline, the best arm, and each arm against the control, as ``verdict/test/ppo``."""
    found = {"verdict": summary["verdict"]["headline"], "verdict/best": summary["verdict"]["best"]}
    for name, arm in summary["arms"].items():
        for split, own in arm["splits"].items():
            found[f"verdict/{split}/{name}"] = (own.get("difference") or {}).get("verdict")
    return {name: str(text) for name, text in found.items() if text}


def notes(summary: Mapping[str, Any]) -> str:
    """Headline, one sentence an arm and the warnings, a line each."""
    lines: Sequence[str] = [summary["verdict"]["headline"], *summary["verdict"]["sentences"]]
    return "\n\n".join([*lines, *(f"Warning: {warning}" for warning in summary["warnings"])])
