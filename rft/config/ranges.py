"""Ranges of settings, declared beside the default of a ``Config`` field."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")

_RULES: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "at_least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "at_most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def number(
    default: T,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> T:
    """A dataclass field with a default and the range that its value must lie in; NaN and infinity lie in none.

    A subclass that declares the field anew, with another default alone, keeps the range.
    """
    given = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    limits = {rule: limit for rule, limit in given.items() if limit is not None}
    declared: T = field(default=default, metadata={"limits": limits})
    return declared


def out_of_range(config: type[Any], name: str, value: object) -> str | None:
    """The range that a field's value misses, in words, or None if it does not."""
    limits: Mapping[str, float] = {}
    for base in config.__mro__:
        declared = getattr(base, "__dataclass_fields__", {}).get(name)
        if declared is not None and "limits" in declared.metadata:
            limits = declared.metadata["limits"]
            break
    if not limits or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if math.isfinite(value) and all(_RULES[rule][0](value, limit) for rule, limit in limits.items()):
        return None
    wanted = " and ".join(f"{_RULES[rule][1]} {limit:g}" for rule, limit in limits.items())
    return wanted if math.isfinite(value) else f"a finite number, {wanted}"
