"""The figures as plotly specifications for the page; their colours follow the reader's theme and are set there.

Every trace says in ``meta`` which arm it is of, or that its number is the figure's own. Text in them is names and
numbers, never a model's: plotly reads a little HTML in labels, so names are escaped.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rft.report.figures import Figure, Series
from rft.report.palette import PLOTLY_DASHES, PLOTLY_MARKS
from rft.report.resources import AXES
from rft.report.resources import name as axis_name

ROW_HEIGHT = 30
SMALL_ROW_HEIGHT = 20
MANY_ROWS = 14
HEIGHT = 360
NAME_WIDTH = 18
NAME_LINES = 3


def plain(text: str) -> str:
    """`text` as plotly shows it letter by letter."""
    return html.escape(text, quote=False)


def label(name: str) -> str:
    """An arm's name for an axis, in at most three lines."""
    lines = textwrap.wrap(name, NAME_WIDTH) or [""]
    if len(lines) > NAME_LINES:
        lines = [*lines[: NAME_LINES - 1], lines[NAME_LINES - 1][: NAME_WIDTH - 1] + "…"]
    return "<br>".join(map(plain, lines))


def specification(figure: Figure) -> dict[str, Any]:
    """``{"data", "layout"}`` of a figure."""
    data = [_trace(one) for one in figure.series]
    if figure.names:
        for trace in data:
            trace["meta"]["own"] = True  # it stays when an arm of its number is hidden
    return {"data": data, "layout": _layout(figure)}


def switchable(figures: Sequence[Figure]) -> dict[str, Any]:
    """Specifications of curves without their x, which are in ``grids``: axis → x, each kept once.

    A trace's ``meta.grid`` is its place in ``grids``; ``axes`` are the axes to offer, with their titles.
    """
    grids: list[Mapping[str, Any]] = []
    places: dict[str, int] = {}
    specifications = {}
    for figure in figures:
        drawn = specification(figure)
        for trace, one in zip(drawn["data"], figure.series, strict=True):
            found = {axis: list(x) for axis, x in one.axes.items()}
            place = places.setdefault(repr(found), len(grids))
            if place == len(grids):
                grids.append(found)
            del trace["x"]
            trace["meta"]["grid"] = place
        specifications[figure.name] = drawn
    offered = [axis for axis in AXES if any(axis in grid for grid in grids)]
    return {"plots": specifications, "grids": grids, "axes": {axis: axis_name(axis) for axis in offered}}


def _trace(one: Series) -> dict[str, Any]:
    mark = PLOTLY_MARKS[one.arm % len(PLOTLY_MARKS)] + ("-open" if one.hollow else "")
    dash = PLOTLY_DASHES[one.arm % len(PLOTLY_DASHES)]
    trace: dict[str, Any] = {
        "type": "scatter",
        "meta": {"arm": one.arm},
        "name": plain(one.name),
        "x": list(one.x),
        "y": list(one.y),
    }
    if one.notes:
        trace |= {"hovertext": [plain(note) for note in one.notes], "hoverinfo": "text"}
    if one.kind == "interval":
        return trace | {"mode": "markers", "marker": {"symbol": mark, "size": 10}, "error_x": _bars(one, one.x)}
    if one.kind == "trend":
        trace |= {"mode": "lines+markers", "marker": {"symbol": mark, "size": 9}, "line": {"width": 1.6}}
        return trace | ({"error_y": _bars(one, one.y)} if one.low else {})
    if one.kind == "path":
        marker = {"symbol": mark, "size": 6}
        return trace | {"mode": "lines+markers", "marker": marker, "line": {"width": 1}, "opacity": 0.75}
    if one.kind == "final":
        return trace | {"mode": "markers", "marker": {"symbol": mark, "size": 10}}
    if one.kind == "fit":
        return trace | {"mode": "lines", "line": {"width": 1.6, "dash": "dot"}}
    if one.kind == "steps":
        line = {"shape": "hv", "width": 2.2, "dash": dash}
        return trace | {"mode": "lines+markers", "marker": {"symbol": mark, "size": 6}, "line": line}
    if one.faint:
        return trace | {"mode": "lines", "line": {"width": 1}, "opacity": 0.4, "hoverinfo": "skip"}
    return trace | {"mode": "lines", "line": {"width": 2.4, "dash": dash}}


def _bars(one: Series, middle: Sequence[float | None]) -> dict[str, Any]:
    """The bars around `middle` [N]."""
    return {
        "type": "data", "symmetric": False, "thickness": 2, "width": 0,
        "array": [high - x for high, x in zip(one.high, middle, strict=True) if x is not None],
        "arrayminus": [x - low for low, x in zip(one.low, middle, strict=True) if x is not None],
    }  # fmt: skip


def _layout(figure: Figure) -> dict[str, Any]:
    height = HEIGHT
    y: dict[str, Any] = {"title": {"text": plain(figure.y_label)}, "automargin": True, "zeroline": False}
    if figure.rows:
        count = len(figure.rows)
        height = 84 + count * (ROW_HEIGHT if count <= MANY_ROWS else SMALL_ROW_HEIGHT)
        y |= {
            "tickvals": list(range(count)),
            "ticktext": [label(row) for row in figure.rows],
            "range": [count - 0.45, -0.55],
            "showgrid": False,
        }
    x = {"title": {"text": plain(figure.x_label)}, "automargin": True, "zeroline": figure.zero}
    return {
        "height": height,
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": x,
        "yaxis": y,
    }
