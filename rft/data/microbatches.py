"""A batch in parts: an optimiser step's microbatches, how many and how much each counts; passes without graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from rft.types import Sequences

PASSED_TOKENS = 4096  # of a pass without graph, padding counted


def count_microbatches(*rows: int, row_tokens: int, least: int = 1, tokens: int | None = None) -> int:
    """How many microbatches a rank's part of an optimiser step is divided into.

    Args:
        rows: numbers of which each must divide: of the rows that are sampled, of those that are learned from.
        row_tokens: of the first kind, padding counted.
        least: what is asked for.
        tokens: most of a microbatch; None: any number.

    Returns:
        The fewest from `least` on that divide all and keep within the tokens; the most that divide if none does;
        `least` if nothing divides, which whoever makes the parts refuses.
    """
    dividing = [n for n in range(least, min(rows) + 1) if not any(one % n for one in rows)]
    within = (n for n in dividing if tokens is None or rows[0] // n * row_tokens <= tokens)
    return next(within, max(dividing, default=least))


def weighted(
    minibatch: Any, micro: int, count: Callable[[Any], int], parts: int, mine: slice = slice(None)
) -> Iterator[Any]:
    """Some of a minibatch's microbatches, weighted so that the mean over all is the mean over what the loss counts.

    Args:
        minibatch: rows of all ranks.
        micro: rows of a microbatch.
        count: how many things the loss on a batch is a mean over.
        parts: microbatches of all ranks.
        mine: which of them.
    """
    total = max(count(minibatch), 1)
    for start in range(0, len(minibatch), micro)[mine]:
        part = minibatch[slice(start, start + micro)]
        yield replace(part, weight=count(part) * parts / total)


def cut(seq: Sequences, rows: int) -> list[Sequences]:
    """Parts of so many rows, the last of what is left."""
    return [seq[slice(i, i + rows)] for i in range(0, len(seq), rows)]


def passes(seq: Sequences, least: int = 1, group: int = 1) -> list[Sequences]:
    """Parts to pass without graph: of as many rows as have ``PASSED_TOKENS`` tokens, but of no fewer than the least.

    Rows of a group, which have one prompt and may share its pass, stay together if there is room for a group.
    """
    rows = PASSED_TOKENS // seq.row_tokens
    return cut(seq, max(least, rows - rows % group or rows))
