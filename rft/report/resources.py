"""What training uses up: how each resource is called and written."""

from __future__ import annotations

from rft.report.wording import duration, number

AXES = {
    "steps": "optimiser steps",
    "prompts": "prompts",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "flops": "FLOPs",
    "seconds": "seconds",
    "labels": "labels",
    "money": "money",
}
"""The axes of learning curves, in the order in which they are offered."""
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def name(resource: str) -> str:
    """The resource in words; one that is not known here goes by its own name."""
    return AXES.get(resource, resource.replace("_", " "))


def amount(value: float | None, resource: str) -> str:
    """An amount of a resource in three or four figures."""
    if value is None:
        return "–"
    if resource == "seconds":
        return duration(value)
    if resource == "money":
        return number(value, 2 if abs(value) >= 1 or value == 0 else 4)
    return short(value)


def short(value: float) -> str:
    """A count with the prefixes of the SI from 10,000 on."""
    if abs(value) >= 1e4:
        for power, prefix in PREFIXES:
            if abs(value) >= power:
                return f"{number(value / power, 1 if abs(value) / power < 99.95 else 0)} {prefix}"
    return number(value, 0 if float(value).is_integer() else 1)
