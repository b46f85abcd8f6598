"""The figures as PNG and SVG files, for papers and pull requests: the same bits from the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rft.report.figures import Figure, Series
from rft.report.palette import LIGHT, MATPLOTLIB_DASHES, MATPLOTLIB_MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDTH, HEIGHT, ROW_HEIGHT = 6.4, 4.2, 0.3
RESOLUTION = 160
COLUMNS = 2
LEGEND_ROWS = 12
STYLE: dict[str, Any] = {
    "svg.hashsalt": "rft",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a1",
    "axes.labelcolor": "#1c2430",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#dfe3e8",
    "xtick.color": "#5b6675",
    "ytick.color": "#5b6675",
    "text.parse_math": False,
}
"""Pinned, so that a reader's own matplotlibrc changes nothing; a ``$`` in an arm's name is a dollar."""
NO_DATE: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def images(panels: Mapping[str, Sequence[Figure]], arms: Sequence[str]) -> dict[str, bytes]:
    """File name → content, as PNG and SVG; the figures of one entry stand two by two in one picture."""
    import matplotlib

    found: dict[str, bytes] = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: dict[Any, Any] = matplotlib.rcParams
        parameters.update(STYLE)
        for name, figures in panels.items():
            canvas = _canvas(figures, arms)
            for kind, metadata in NO_DATE.items():
                stream = io.BytesIO()
                canvas.savefig(stream, format=kind, dpi=RESOLUTION, metadata=metadata)
                found[f"{name}.{kind}"] = stream.getvalue()
    return found


def _canvas(figures: Sequence[Figure], arms: Sequence[str]) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    rows = max(len(figure.rows) for figure in figures)
    height = 1.1 + ROW_HEIGHT * rows if rows else HEIGHT
    columns = min(COLUMNS, len(figures))
    lines = -(-len(figures) // columns)
    canvas = Canvas(figsize=(WIDTH * columns, height * lines), layout="constrained", facecolor="white")
    for place, figure in enumerate(figures):
        _draw(canvas.add_subplot(lines, columns, place + 1), figure)
    if not rows:
        _legend(canvas, figures, figures[0].names or arms)
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")  # it is laid out, and would be again for every file
    return canvas


def _draw(axes: Axes, figure: Figure) -> None:
    axes.set_title(figure.title)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.grid(axis="x" if figure.rows else "both", linewidth=0.7)
    axes.set_axisbelow(True)
    if figure.zero:
        axes.axvline(0, color="#1c2430", linewidth=1, linestyle=(0, (4, 3)))
    for one in figure.series:
        _series(axes, one)
    if figure.rows:
        axes.set_yticks(range(len(figure.rows)), [_short(row) for row in figure.rows])
        axes.set_ylim(len(figure.rows) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelcolor="#1c2430")


def _short(name: str) -> str:
    return name if len(name) <= 36 else name[:35] + "…"


def _series(axes: Axes, one: Series) -> None:
    colour = LIGHT[one.arm % len(LIGHT)]
    mark = MATPLOTLIB_MARKS[one.arm % len(MATPLOTLIB_MARKS)]
    dash = MATPLOTLIB_DASHES[one.arm % len(MATPLOTLIB_DASHES)]
    face = "white" if one.hollow else colour
    if not len(one.x):
        return
    x = [float("nan") if value is None else value for value in one.x]
    y = [float("nan") if value is None else value for value in one.y]
    if one.kind == "interval":
        bars = [[value - low for value, low in zip(x, one.low, strict=True)],
                [high - value for value, high in zip(x, one.high, strict=True)]]  # fmt: skip
        axes.errorbar(x, y, xerr=bars, fmt=mark, color=colour, markerfacecolor=face, markersize=6, elinewidth=1.6)
    elif one.kind == "trend":
        spread = [[value - low for value, low in zip(y, one.low, strict=True)],
                  [high - value for value, high in zip(y, one.high, strict=True)]] if one.low else None  # fmt: skip
        axes.errorbar(x, y, yerr=spread, fmt=mark, color=colour, markersize=6, elinewidth=1.6, linestyle="-")
    elif one.kind == "path":
        axes.plot(x, y, marker=mark, color=colour, markerfacecolor=face, markersize=4, linewidth=0.8, alpha=0.75)
    elif one.kind == "final":
        axes.plot(x, y, marker=mark, color=colour, markersize=7, linestyle="none", zorder=3)
    elif one.kind == "fit":
        axes.plot(x, y, color=colour, linewidth=1.2, linestyle=":")
    elif one.faint:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.4)
    else:
        axes.plot(x, y, color=colour, linewidth=1.8, linestyle=dash)


def _legend(canvas: Canvas, figures: Sequence[Figure], arms: Sequence[str]) -> None:
    """The arms, or names of the figure's own, that are drawn, beside it; curves and dotted lines have no marks."""
    from matplotlib.lines import Line2D

    drawn = sorted({one.arm for figure in figures for one in figure.series if arms[one.arm]})
    series = [one for figure in figures for one in figure.series]
    lines = all(one.kind == "line" for one in series)
    dotted = {arm for arm in drawn if all(one.kind == "fit" for one in series if one.arm == arm)}
    handles = [
        Line2D(
            [], [], color=LIGHT[arm % len(LIGHT)],
            marker="none" if lines or arm in dotted else MATPLOTLIB_MARKS[arm % len(MATPLOTLIB_MARKS)],
            linestyle=":" if arm in dotted else MATPLOTLIB_DASHES[arm % len(MATPLOTLIB_DASHES)],
            linewidth=1.2 if arm in dotted else 1.8 if lines else 0.0,
        )
        for arm in drawn
    ]  # fmt: skip
    names = [_short(arms[arm]) for arm in drawn]
    columns = -(-len(drawn) // LEGEND_ROWS)
    canvas.legend(handles, names, loc="outside right center", frameon=False, ncols=columns)
