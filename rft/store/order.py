"""Entries that may be made in any order: what another process is making comes after the rest."""

from __future__ import annotations

from collections.abc import Callable

from rft.store.store import BeingMadeError, Store


def in_any_order(store: Store, *asked: Callable[[], object]) -> None:
    """Ask for entries in the order given, but rather than wait for what another process makes ask for the next first.

    Args:
        store: that they are asked of.
        asked: each asks for one, and for what that is made from.
    """
    left = list(asked)
    while left:
        done = next((one for one in left if _without_waiting(store, one)), None)
        if done is None:  # others make all that is left
            left[0]()
        left.remove(done or left[0])


def _without_waiting(store: Store, ask: Callable[[], object]) -> bool:
    """Whether it is there now; False if another process makes it, or something that it is made from."""
    store.waits = False
    try:
        ask()
    except BeingMadeError:
        return False
    finally:
        store.waits = True
    return True
