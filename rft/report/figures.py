"""Which figures a study gets, with their titles and captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft.evaluation.statistics import PROMPTS_ONLY
from rft.report import svg, wording

MAIN_CURVES = {
    "rollout/reward": ("Reward while training", "proxy reward of the rollouts"),
    "rollout/kl": ("KL while training", "KL from the start policy (nats a response)"),
    "train/accuracy": ("Labelled pairs told right while training", "share of pairs"),
}
"""Metric → title and axis of the curves shown first; an arm has the curves that its kind of training logs."""


def plots(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Title, figure and caption of each plot of the final test that the study has numbers for."""
    if not summary["splits"]:
        return []
    split = summary["splits"][0]
    filled = " and ".join(
        f"{kind}: {wording.title(name)}"
        for kind, name in zip(("filled", "hollow"), summary["splits"][:2], strict=False)
    )
    interval = f"Bars are {wording.level(summary)} intervals; {filled}."
    figures = [
        ("Gold reward", svg.whiskers(summary, "gold", "mean gold reward"), interval),
        (
            "How far each arm moved from the start",
            svg.scatter(summary, split, "kl", "KL from the start policy (nats a response)"),
            "Up is better, left is closer to the start policy. Small hollow marks are seeds, large ones means.",
        ),
        (
            "What was optimised against what counts",
            svg.scatter(summary, split, "proxy", "proxy reward (reward model's score)"),
            _proxy_caption(summary),
        ),
    ]
    if summary["control"] and len(summary["arms"]) > 1:
        difference = (
            f"Difference to {summary['control']}",
            svg.whiskers(summary, "difference", f"gold reward minus {summary['control']}"),
            interval + _verdict_caption(summary, split),
        )
        figures.insert(1, difference)
    return [{"title": title, "svg": figure, "caption": text} for title, figure, text in figures if figure]


def _verdict_caption(summary: Mapping[str, Any], split: str) -> str:
    differences = [record["splits"][split]["difference"] for record in summary["arms"].values()]
    if any(difference and difference["covers"] == PROMPTS_ONLY for difference in differences):
        return " Arms with one seed have bars over prompts only, which are no verdict wherever they end."
    return " A bar that does not touch the line at 0 is a verdict."


def _proxy_caption(summary: Mapping[str, Any]) -> str:
    caption = "To the right without going up is over-optimisation: the reward model is pleased, the gold reward is not."
    if not summary["stages"].get("reward_model", {"same": True})["same"]:
        caption += " Not all arms share a reward model: read left and right only between arms that do."
    return caption


def learning_curves(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The curves shown first (``main``), and all others that the arms logged (``more``)."""
    curves = summary["curves"]
    main = [
        {"title": title, "svg": svg.lines(summary, name, label), "caption": _who(summary, name)}
        for name, (title, label) in MAIN_CURVES.items()
        if name in curves
    ]
    more = [
        {"title": name, "svg": svg.lines(summary, name, name), "caption": _who(summary, name)}
        for name in curves
        if name not in MAIN_CURVES
    ]
    return {"main": main, "more": more}


def _who(summary: Mapping[str, Any], metric: str) -> str:
    have = summary["curves"][metric]
    without = [arm for arm in summary["arms"] if arm not in have]
    return f"Not logged by {wording.listing(without)}." if without else ""
