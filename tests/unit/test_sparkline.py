"""Curves in a line of text."""

from __future__ import annotations

import math

import pytest

from rft.study.sparkline import ASCII, BLOCKS, extent, levels_for, sparkline


def test_each_level_stands_for_an_eighth_of_the_range() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, 0, 8) == BLOCKS
    assert sparkline([8, 7.99, 1, 0.99], 8, 0, 8) == "██▂▁"


def test_parts_are_means_and_even() -> None:
    assert sparkline([0, 2, 6, 8], 2, 0, 8) == "▂█"  # 1 and 7 of 0 to 8
    assert len(sparkline(range(1000), 7, 0, 999)) == 7
    assert sparkline(range(1000), 8, 0, 1000) == BLOCKS


def test_few_values_take_one_place_each() -> None:
    assert sparkline([1, 2], 30, 1, 2) == "▁█"
    assert sparkline([], 30, 0, 1) == ""


def test_what_is_no_number_counts_nowhere() -> None:
    assert sparkline([math.nan, 0, 8, math.inf], 4, 0, 8) == " ▁█ "
    assert sparkline([math.nan, 8], 1, 0, 8) == "█"
    assert extent([[math.nan, 3.0], [], [-1.0, math.inf]]) == (-1.0, 3.0)
    assert extent([[], [math.nan]]) == (0.0, 0.0)


def test_a_constant_lies_in_the_middle() -> None:
    assert sparkline([2.0, 2.0], 2, 2.0, 2.0) == "▄▄"


def test_values_beyond_the_scale_take_its_ends() -> None:
    assert sparkline([-5, 50], 2, 0, 8) == "▁█"


@pytest.mark.parametrize(
    ("encoding", "levels"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), ("?", ASCII)]
)
def test_a_terminal_without_unicode_gets_plain_characters(encoding: str, levels: str) -> None:
    assert levels_for(encoding) == levels
