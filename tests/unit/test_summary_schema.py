"""docs/summary.md and a real summary have the same keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft.report import summarise
from rft.report.summary import SCHEMA
from tests.synthetic_study import Study

PAGE = Path(__file__).parents[2] / "docs" / "summary.md"
MEASURED = ("value", "low", "high", "n")
INTERVAL = ("mean", "low", "high", "covers")
SHAPES = {
    "interval": INTERVAL,
    "measured share": MEASURED,
    "comparison": (*INTERVAL, "excludes_zero", "p_value", "holm_p", "verdict", "seeds_needed"),
}
ANY = "<>"
Keys = tuple[str, ...]


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A study in which every key has a value: points of training let the laws be fitted."""
    study = Study(tmp_path_factory.mktemp("study"), checkpoints=3, eval_judge=True).fill(seeds=2)
    study.trial("rlaif_dpo", 0, audit=None)
    for quality in (0.6, 0.8, 1.0):
        study.labelled(f"ppo-{quality}", 0, "ppo", quality, 0.5 + 0.2 * quality)
    study.trial("gone", 0, change=lambda record: record.update(status="failed", error="out of memory"))
    return summarise(study.load())


def leaves(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, bool]]:
    """Path of every value in a summary, and whether it is absent: null, or a list or object without entries."""
    entries = (
        value.items() if isinstance(value, dict) else (("[]", v) for v in value) if isinstance(value, list) else ()
    )
    empty = value is None or value in ([], {})
    if empty or not isinstance(value, dict | list):
        yield path, empty
    for key, inner in entries:
        yield from leaves(inner, (*path, key))


def described(text: str) -> set[Keys]:
    """The paths of the page's tables, intervals and comparisons written out."""
    found = set()
    for key, unit in re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", text, re.MULTILINE):
        parts = re.sub(r"<\w+>", ANY, key).replace("[]", ".[]").split(".")
        found |= {(*parts, *([inner] if inner else [])) for inner in SHAPES.get(unit.strip(), ("",))}
    return found


def objects(text: str) -> set[Keys]:
    """The paths whose keys are named in their row."""
    return {tuple(key.split(".")) for key in re.findall(r"^\| `([^`]+)` \| object \|", text, re.MULTILINE)}


def fits(path: Keys, pattern: Keys) -> bool:
    return len(path) == len(pattern) and all(b in (a, ANY) for a, b in zip(path, pattern, strict=True))


def faults(summary: dict[str, Any], text: str) -> list[str]:
    """Keys that only one of the two has."""
    whole = objects(text)
    page = described(text) - whole
    unused, wrong = set(page), []
    for path, absent in set(leaves(summary)):
        if any(path[: len(one)] == one for one in whole):
            continue
        own = {pattern for pattern in page if fits(path, pattern)}
        unused -= own
        above = absent and any(fits(path, pattern[: len(path)]) for pattern in page)
        if not own and not above:
            wrong.append(f"not described: {'.'.join(path)}")
    return sorted(wrong) + sorted(f"in no summary: {'.'.join(pattern)}" for pattern in unused)


def test_the_page_describes_every_key_and_no_other(summary: dict[str, Any]) -> None:
    assert faults(summary, PAGE.read_text(encoding="utf-8")) == []


def test_a_key_that_only_one_of_them_has_is_found(summary: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    summary = summary | {"verdict": summary["verdict"] | {"mood": "good"}}
    lines = [line for line in text.splitlines() if "`study`" not in line]
    lines.append("| `statistics.luck` | interval | |")
    assert faults(summary, "\n".join(lines)) == [
        "not described: study",
        "not described: verdict.mood",
        *(f"in no summary: statistics.luck.{key}" for key in sorted(INTERVAL)),
    ]


def test_the_page_is_of_the_summarys_schema(summary: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8").startswith(f"# summary.json, schema {SCHEMA}\n")
    assert summary["schema"] == SCHEMA
