"""Which arms a figure or a table shows where all of them would hide one another; every such place says so."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any


def ranked(summary: Mapping[str, Any]) -> list[str]:
    """All arms by their mean gold reward on the first split, highest first; by name on a tie."""
    if not summary["splits"]:
        return list(summary["arms"])
    split = summary["splits"][0]
    return sorted(summary["arms"], key=lambda arm: (-summary["arms"][arm]["splits"][split]["gold"]["mean"], arm))


def leading(summary: Mapping[str, Any], most: int) -> list[str]:
    """The control and the arms with the highest mean gold reward, at most `most`, in the order of the summary."""
    control = summary["control"]
    others = [arm for arm in ranked(summary) if arm != control]
    kept = {control, *others[: most - (control is not None)]}
    return [arm for arm in summary["arms"] if arm in kept]


def other_proxy(summary: Mapping[str, Any]) -> list[str]:
    """The arms whose proxy cannot be held against the control's: another reward model gave it."""
    if summary["control"] is None or not summary["splits"]:
        return []
    split, arms = summary["splits"][0], summary["arms"]
    models = {arm: {use["key"] for use in record["stages"].get("reward_model", ())} for arm, record in arms.items()}
    return [
        arm
        for arm, record in arms.items()
        if not one_scale(models[arm], models[summary["control"]]) and record["splits"][split]["proxy"] is not None
    ]


def one_scale(ours: Set[str], theirs: Set[str]) -> bool:
    """Whether the reward models of two arms, by their keys, are the same, but for seeds that one of them lacks."""
    return ours == theirs or bool(ours and theirs and (ours < theirs or theirs < ours))


def left_out(summary: Mapping[str, Any], most: int) -> str:
    """The sentence that says which arms `leading` keeps; empty if it keeps all."""
    count = len(summary["arms"])
    if count <= most:
        return ""
    control = summary["control"]
    first = f"the control {control} and " if control else ""
    return f"Of {count} arms, shown are {first}the {most - bool(first)} with the highest mean gold reward."
