"""How an arm is told from the others: a colour of Okabe and Ito (safe for the colour-blind), a mark and a dash.

Colours, marks and dashes repeat with periods without a common divisor, so that arms of one colour differ in the
mark of their points (42 pairs) and in the dash of their lines (35 pairs).
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

LIGHT = ("#2b3138", "#0072b2", "#c14f09", "#009767", "#b35a90", "#c98a00", "#409beb")
DARK = ("#f3f5f8", "#53a9eb", "#f78b50", "#38d2a4", "#d799c6", "#efb83a", "#9fd8f7")
"""Okabe and Ito's hues, moved until each stands out on the page and no two come near each other to a colour-blind eye;
the control's is nearly the ink's."""
PLOTLY_MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
MATPLOTLIB_MARKS = ("o", "s", "D", "^", "v", "P")
SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
    "M-4.6,-4.6H4.6V4.6H-4.6Z",
    "M0,-6L6,0L0,6L-6,0Z",
    "M0,-5.8L5.8,4.6H-5.8Z",
    "M0,5.8L5.8,-4.6H-5.8Z",
    "M-1.9,-5.5H1.9V-1.9H5.5V1.9H1.9V5.5H-1.9V1.9H-5.5V-1.9H-1.9Z",
)
"""The marks as SVG paths around (0, 0), for legends and tables."""
PLOTLY_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MATPLOTLIB_DASHES: tuple[Any, ...] = (
    "solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (5, 2, 1.2, 2)), (0, (9, 3)),
)  # fmt: skip


def css_class(index: int) -> str:
    """The style sheet's class of the arm with this number."""
    return f"arm-{index % len(LIGHT)}"


def key(index: int) -> Markup:
    """The arm's mark in its colour, for legends and tables."""
    return Markup('<svg class="key {}" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{}"/></svg>').format(
        css_class(index), SHAPES[index % len(SHAPES)]
    )


def style_sheet() -> Markup:
    """The colours as custom properties of the page, for either theme, and a class for each."""
    light, dark = ("".join(f"--arm-{i}:{colour};" for i, colour in enumerate(colours)) for colours in (LIGHT, DARK))
    classes = "".join(f".arm-{i}{{color:var(--arm-{i})}}" for i in range(len(LIGHT)))
    return Markup(f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}{classes}")
