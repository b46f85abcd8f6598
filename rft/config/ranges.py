"""Ranges of settings, declared beside the default of a ``Config`` field."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rft.config.search import Search

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
    search: Search | None = None,
) -> T:
    """A dataclass field with a default and the range that its value must lie in; NaN and infinity lie in none.

    A subclass that declares the field anew, with another default alone, keeps the range, and what is searched.

    Args:
        default: the default.
        at_least: its limit; so the others.
        above: its limit.
        at_most: its limit.
        below: its limit.
        search: where ``sweep=fair_tuning`` looks for a better value, as ``loguniform(1e-5, 1e-3)``; not at all if
            not given.
    """
    given = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    limits = {rule: limit for rule, limit in given.items() if limit is not None}
    kept = {"limits": limits, "search": search}
    made: T = field(default=default, metadata={key: value for key, value in kept.items() if value})
    return made


def declared(config: type[Any], name: str, key: str) -> Any:
    """What a field declares beside its default, itself or in the nearest base; None if nothing."""
    for base in config.__mro__:
        found = getattr(base, "__dataclass_fields__", {}).get(name)
        if found is not None and key in found.metadata:
            return found.metadata[key]
    return None


def out_of_range(config: type[Any], name: str, value: object) -> str | None:
    """The range that a field's value misses, in words, or None if it does not."""
    limits: Mapping[str, float] = declared(config, name, "limits") or {}
    if not limits or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if math.isfinite(value) and all(_RULES[rule][0](value, limit) for rule, limit in limits.items()):
        return None
    wanted = " and ".join(f"{_RULES[rule][1]} {limit:g}" for rule, limit in limits.items())
    return wanted if math.isfinite(value) else f"a finite number, {wanted}"
