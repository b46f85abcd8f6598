"""Curves in a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""For terminals without Unicode."""
GAP = " "
"""Where no value is a number."""


def sparkline(values: Sequence[float], width: int, low: float, high: float, levels: str = BLOCKS) -> str:
    """`values` [N] as at most `width` characters: each the level of the mean of its part, between `low` and `high`.

    The parts are as even as N allows. Values that are not finite count nowhere; a part of them alone is a gap.

    Args:
        values: in order.
        width: characters at most; with fewer values, one each.
        low: what the lowest level stands for, and all below it.
        high: what the highest stands for. If it is `low`, all are of one level in the middle.
        levels: characters from low to high.
    """
    count = len(values)
    places = min(width, count)
    line = ""
    for place in range(places):
        part = values[place * count // places : (place + 1) * count // places]
        known = [value for value in part if math.isfinite(value)]
        line += levels[_level(sum(known) / len(known), low, high, len(levels))] if known else GAP
    return line


def _level(value: float, low: float, high: float, count: int) -> int:
    if high <= low:
        return (count - 1) // 2
    share = (value - low) / (high - low)
    return min(count - 1, max(0, int(share * count)))


def extent(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The lowest and the highest finite value of some curves; 0 and 0 if there is none."""
    known = [value for curve in curves for value in curve if math.isfinite(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)


def levels_for(encoding: str) -> str:
    """The levels that text of an encoding can hold."""
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS
