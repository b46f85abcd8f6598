"""Makes a table, a plot and a JSON file of what was measured.

Where the number of tokens is left to the sides (``decode_ending``) a step's time is that of an average response token,
so ratios are of medians of seconds a token; in all other cases that is the same as of seconds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.cases import BY_NAME, Figures
from experiments.benchmarks.machine import in_words
from experiments.benchmarks.plot import draw
from experiments.benchmarks.workers import FLOOR, OURS, PEER

JUDGED = "smollm2"  # the model that the figures are asked of
MB = 2**20
Row = Mapping[str, Any]


def step_seconds(side: Row | None) -> float | None:
    """Median of a step; None if it was not measured."""
    return statistics.median(side["seconds"]) if side and side["seconds"] else None


def rate(side: Row | None) -> float | None:
    """Median tokens a second; None if it was not measured."""
    if not side or not side["seconds"]:
        return None
    return statistics.median(n / s for n, s in zip(side["tokens"], side["seconds"], strict=True))


def memory(side: Row | None) -> float | None:
    """Peak resident MB of the process; None if it was not measured."""
    return side["peak_bytes"] / MB if side and side["peak_bytes"] else None


def ratio(over: float | None, under: float | None) -> float | None:
    """None if either is not known."""
    return None if over is None or not under else over / under


def ratios(row: Row) -> Figures:
    """What the figures are asked of."""
    ours, peer, floor = (row["sides"].get(name) for name in (OURS, PEER, FLOOR))
    return Figures(ratio(rate(ours), rate(peer)), ratio(rate(floor), rate(ours)), ratio(memory(ours), memory(peer)))


def judged(value: float | None, wanted: float | None, *, at_least: bool) -> str:
    """A ratio with what is asked of it: met or missed, or no word if nothing is asked or known."""
    if value is None:
        return "–"
    if wanted is None:
        return f"{value:.2f}"
    met = value >= wanted if at_least else value <= wanted
    return f"{value:.2f} ({'≥' if at_least else '≤'} {wanted:g}: {'met' if met else 'missed'})"


def shown(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash for one that is not known."""
    return "–" if value is None else format(value, form)


def judged_ratios(row: Row) -> list[str]:
    """TRL/ours, ours/floor and memory ours/TRL, with what is asked of them on the model that it is asked of."""
    found = ratios(row)
    asked = BY_NAME[row["case"]].figures if row["model"] == JUDGED else Figures()
    return [
        judged(found.trl_over_ours, asked.trl_over_ours, at_least=True),
        judged(found.ours_over_floor, asked.ours_over_floor, at_least=False),
        judged(found.memory_ours_over_trl, asked.memory_ours_over_trl, at_least=False),
    ]


def progress(row: Row) -> str:
    """A row in one line, for whoever waits."""
    about = f"{row['model']} {row['weights']} {row['case']}"
    if "sides" in row:
        parts = [f"{name} {shown(step_seconds(side), '.3f')} s" for name, side in row["sides"].items()]
        return f"{about}: {', '.join(parts)}; TRL/ours, ours/floor, memory: {', '.join(judged_ratios(row))}"
    if "scaling" in row:
        part = row["scaling"]
        return f"{about}: {part['of']} × {part['factor']}: time × {shown(_growth(row), '.2f')}"
    return f"{about}: {'; '.join(_cost(cost) for cost in row['profile']['costs'])}"


def _growth(row: Row) -> float | None:
    part = row["scaling"]
    return ratio(step_seconds(part["larger"]), step_seconds(part["base"]))


def _cost(cost: Row) -> str:
    return f"{cost['cost']} {cost['seconds']:.3f} s, {cost['share']:.0%} ({', '.join(cost['operators'])})"


def times_table(rows: Sequence[Row]) -> list[str]:
    """All sides, and what is asked."""
    head = ["case", "weights"]
    head += [f"{side} {unit}" for unit in ("s", "tokens/s", "peak MB") for side in ("ours", "TRL", "floor")]
    head += ["TRL / ours", "ours / floor", "memory ours / TRL"]
    body = []
    for row in rows:
        sides = [row["sides"].get(name) for name in (OURS, PEER, FLOOR)]
        cells = [shown(step_seconds(side), ".3f") for side in sides] + [shown(rate(side), ".0f") for side in sides]
        body.append(
            [row["case"], row["weights"], *cells, *(shown(memory(x), ".0f") for x in sides), *judged_ratios(row)]
        )
    return [*_table(head, body), *_parts(rows)]


def _parts(rows: Sequence[Row]) -> list[str]:
    """What the floor is made of."""
    lines = ["", "Parts of the floor, medians in seconds (`own_critic` is not counted):", ""]
    for row in rows:
        parts = (row["sides"].get(FLOOR) or {}).get("parts") or []
        if parts:
            medians = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
            told = ", ".join(f"{name} {seconds:.3f}" for name, seconds in medians.items())
            lines.append(f"- {row['case']}, {row['weights']}: {told}")
    return lines if len(lines) > 3 else []


def scaling_table(rows: Sequence[Row]) -> list[str]:
    """How time and memory grow; a time per work of 1 is linear."""
    head = ["case", "weights", "larger", "time", "time ÷ factor", "memory MB, × 1", "memory MB, larger"]
    body = []
    for row in rows:
        part = row["scaling"]
        growth, sizes = _growth(row), [shown(memory(part[name]), ".0f") for name in ("base", "larger")]
        cells = [f"{part['of']} × {part['factor']}", f"× {shown(growth)}", shown(ratio(growth, part["factor"]))]
        body.append([row["case"], row["weights"], *cells, *sizes])
    return _table(head, body)


def profile_table(rows: Sequence[Row]) -> list[str]:
    """The largest costs of a step of ours."""
    head = ["case", "weights", "cost", "seconds", "share of the step", "operators"]
    body = [
        [row["case"], row["weights"], c["cost"], f"{c['seconds']:.3f}", f"{c['share']:.0%}", ", ".join(c["operators"])]
        for row in rows
        for c in row["profile"]["costs"]
    ]
    return _table(head, body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]


TABLES: dict[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "sides": ("Times", times_table),
    "scaling": ("How a step of ours grows", scaling_table),
    "profile": ("The five largest costs of a step of ours", profile_table),
}


def markdown(found: Row) -> str:
    """The whole page."""
    shape, parts = found["shape"], [f"# Benchmarks\n\n{in_words(found['machine'])}.\n"]
    parts.append(
        f"{shape['sequences']} sequences of {shape['prompt']} + {shape['response']} tokens, bf16; medians over "
        f"{found['repeats']} repeats after one warm-up, the sides taking turns. Tokens are prompt and response; of "
        "decode cases responses alone.\n"
    )
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        for kind, (title, table) in TABLES.items():
            if rows := [row for row in found["rows"] if row["model"] == model and kind in row]:
                parts.append(f"## {title}: {model}\n\n" + "\n".join(table(rows)) + "\n")
    return "\n".join(parts)


def write(found: dict[str, Any], folder: Path, name: str) -> None:
    """``name.json``, ``name.md`` and, of times, a plot a model."""
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(found), encoding="utf-8")
    for model in dict.fromkeys(row["model"] for row in found["rows"] if "sides" in row):
        rows = [row for row in found["rows"] if row["model"] == model and "sides" in row]
        bars = {
            (row["weights"], row["case"]): {side: rate(row["sides"].get(side)) for side in (OURS, PEER, FLOOR)}
            for row in rows
        }
        draw(bars, f"{model}: tokens a second", in_words(found["machine"]), folder / f"{name}-{model}.png")
