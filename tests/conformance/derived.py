"""Which algorithms inherit all their arithmetic from another registered one."""

from __future__ import annotations

from functools import cache

from rft.algorithms.base import Algorithm
from rft.config.build import target_class
from rft.config.options import node_of
from rft.testing.suite import algorithm_names


@cache
def classes() -> dict[str, type[Algorithm]]:
    """The class of each registered algorithm."""
    return {name: target_class(node_of("algorithm", name, {})) for name in algorithm_names()}


def trainable() -> list[str]:
    """The algorithms that make steps."""
    return [name for name, found in classes().items() if found.data_kind != "none"]


def derived() -> list[str]:
    """Those whose class adds nothing to that of another."""
    registered = set(classes().values())
    return sorted(
        name
        for name, found in classes().items()
        if registered & set(found.__mro__[1:]) and all(own.startswith("__") for own in vars(found))
    )


def of_their_own() -> list[str]:
    """All others."""
    return sorted(classes().keys() - set(derived()))
