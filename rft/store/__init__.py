"""Content-addressed artifacts: a stage's result is computed once, kept with its sha256 sums, and reused."""

from __future__ import annotations

from rft.store.canonical import Json
from rft.store.entry import Entry, Problem
from rft.store.store import Removed, Store

__all__ = ["Entry", "Json", "Problem", "Removed", "Store"]
