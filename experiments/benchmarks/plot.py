"""Draws the sides of all cases beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from experiments.benchmarks.workers import FLOOR, OURS, PEER

STYLE = {OURS: ("rft", "#3b6fb6"), PEER: ("TRL", "#d1792b"), FLOOR: ("floor", "#b9bdc4")}
TITLES = {"full": "all weights trained", "lora": "adapters (LoRA)"}


def draw(bars: Mapping[tuple[str, str], Mapping[str, float | None]], title: str, foot: str, file: Path) -> None:
    """Tokens a second relative to TRL's, or to ours where TRL was not measured; the numbers stand on the bars.

    Args:
        bars: tokens a second of each side, by weights and case.
        title: of the whole.
        foot: the machine.
        file: a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in TITLES if any(weights == kind for weights, _ in bars)]
    figure = Figure(figsize=(10, 1.6 + 3.6 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(len(kinds), 1, number + 1)
        rows = {case: sides for (weights, case), sides in bars.items() if weights == kind}
        for place, (side, (label, colour)) in enumerate(STYLE.items()):
            known = [(i, sides, sides[side]) for i, sides in enumerate(rows.values()) if sides.get(side)]
            heights = [
                float(value or 0) / float(sides.get(PEER) or sides.get(OURS) or value or 1) for _, sides, value in known
            ]
            where = [i + (place - 1) * 0.27 for i, _, _ in known]
            drawn = axes.bar(where, heights, 0.25, label=label, color=colour)
            axes.bar_label(drawn, [f"{value:.0f}" for _, _, value in known], fontsize=7)
        axes.set_xticks(range(len(rows)), list(rows))
        axes.set_ylabel("relative to TRL" if any(sides.get(PEER) for sides in rows.values()) else "relative to rft")
        axes.set_title(TITLES[kind], fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    figure.supxlabel("\n".join(textwrap.wrap(foot, 140)), fontsize=7)
    figure.savefig(file, dpi=120)
