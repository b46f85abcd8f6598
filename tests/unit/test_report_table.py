"""The terminal's tables keep every figure whole at any width, and say who won, how sure that is and what it cost."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rft.report import print_table, summarise
from rft.report.html import render
from rft.report.table import Column, broken, pack
from rft.report.wording import brief, number, p_figure, percent, span
from tests.synthetic_study import GOLD, Study

LONG = "ppo-lr=0.0003-clip_range=0.05-kl_coef=0.2-iterations=400"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return summarise(Study(tmp_path_factory.mktemp("study")).fill().load())


@pytest.fixture(scope="module")
def long_named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return summarise(Study(tmp_path_factory.mktemp("study")).fill(("sft", LONG), seeds=2).load())


def shown(summary: dict[str, Any], width: int | None, *, terminal: bool) -> str:
    """What is printed; without a width, the console takes the one that it takes for a pipe."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_table(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(text: str, split: str, following: str | None) -> dict[str, list[str]]:
    """Arm → the cells of all its rows in a split's tables: cells are two spaces or more apart."""
    section = text[text.index(f"{split}: ") : text.index(f"{following}: ") if following else None]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        name, *cells = re.split(r"\s{2,}", line.strip())
        if cells:
            found.setdefault(name, []).extend(cells)
    return found


def figures(summary: dict[str, Any], arm: str, split: str) -> list[str]:
    """Every cell that an arm has, in order."""
    row = summary["arms"][arm]["splits"][split]
    difference = row["difference"]
    compared = (
        [
            number(difference["mean"], 3, sign=True),
            span(difference, 3, sign=True),
            p_figure(difference["holm_p"]),
            difference["verdict"],
        ]
        if difference
        else ["control"]
    )
    return [
        number(row["gold"]["mean"], 3), span(row["gold"], 3), *compared, number(row["kl"], 1), number(row["proxy"]),
        number(row["length"], 1), percent(row["truncation"]), number(row["distinct_2"]),
        str(len(summary["arms"][arm]["seeds"])),
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (80, True), (100, True), (200, True), (None, False)])
def test_every_figure_of_every_arm_is_whole(summary: dict[str, Any], width: int | None, terminal: bool) -> None:
    text = shown(summary, width, terminal=terminal)
    for split, following in (("test", "ood"), ("ood", None)):
        found = rows(text, split, following)
        for arm in GOLD:
            assert found[arm] == figures(summary, arm, split)
    assert "…" not in text
    if width:
        assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_name_gives_way_to_the_figures_and_goes_on_below(long_named: dict[str, Any], width: int) -> None:
    text = shown(long_named, width, terminal=True)
    assert max(len(line) for line in text.splitlines()) <= width
    for cell in figures(long_named, LONG, "test"):
        assert cell in text
    table = text[text.index("─\nsft") : text.index("\n\n")]
    pieces = [line.split()[0] for line in table.splitlines()[2:]]
    assert "".join(pieces) == LONG


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("ppo", 14, ["ppo"]),
        ("ppo-lr=0.0003-clip_range=0.05", 15, ["ppo-lr=0.0003-", "clip_range=0.05"]),
        ("ppo-lr=0.0003-clip_range=0.05", 12, ["ppo-", "lr=0.0003-", "clip_", "range=0.05"]),
        ("a" * 7, 3, ["aaa", "aaa", "a"]),
        ("", 5, []),
    ],
)
def test_names_are_broken_between_settings(name: str, width: int, lines: list[str]) -> None:
    assert broken(name, width) == lines


def test_one_table_a_split_where_there_is_room_for_it(summary: dict[str, Any]) -> None:
    assert shown(summary, 200, terminal=True).count("─\nsft") == 2
    assert shown(summary, 80, terminal=True).count("─\nsft") == 4


def test_groups_of_columns_stay_together() -> None:
    a, b, c = (Column(letter * 8, ()) for letter in "abc")
    assert pack([[a], [b, c]], 30) == [[a, b, c]]
    assert pack([[a], [b, c]], 29) == [[a], [b, c]]
    assert pack([[a], [b, c]], 5) == [[a], [b, c]]


def test_the_end_says_who_won_how_sure_that_is_and_what_it_cost(summary: dict[str, Any]) -> None:
    lines = shown(summary, None, terminal=False).splitlines()
    assert summary["cost"]["headline"] in lines
    assert summary["cost"]["sentence"] in lines
    assert f"  95 % intervals: {summary['statistics']['covers_text']}" in lines
    assert "candidates, labels and reward model are fixed" in summary["statistics"]["covers_text"]
    simulated = next(line for line in lines if "reward model from simulated feedback (sft, dpo and ppo)" in line)
    assert "right on 78 % of labels it never saw and 72 % of real human pairs (one human: 85 %)" in simulated


def test_a_reward_model_of_many_arms_names_six(tmp_path: Path) -> None:
    arms = ("sft", *(f"arm-{n}" for n in range(8)))
    lines = shown(summarise(Study(tmp_path, prompts=6).fill(arms, seeds=1).load()), None, terminal=False)
    assert "reward model from simulated feedback (sft, arm-0, arm-1, arm-2, arm-3, arm-4 and 3 more): right" in lines


def test_one_seed_covers_prompts_only(tmp_path: Path) -> None:
    summary = summarise(Study(tmp_path).fill(("sft", "ppo"), seeds=1).load())
    assert "its intervals cover the choice of prompts only" in " ".join(shown(summary, 80, terminal=True).split())


def test_a_failed_trial_takes_one_line_whatever_it_left_behind(tmp_path: Path) -> None:
    study = Study(tmp_path).fill(("sft", "ppo"), seeds=2)
    error = "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nKeyError: 'lost'\n"
    study.trial("dpo", 0, change=lambda r: r.update(status="failed", error=error))
    results = study.load()
    summary = summarise(results)
    assert "  left out: dpo/seed-0: KeyError: 'lost'" in shown(summary, None, terminal=False).splitlines()
    assert "a.py&#34;, line 1" in render(results, summary)
    assert brief("out of memory\n  at step 7") == "out of memory at step 7"
