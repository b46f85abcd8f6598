"""How many microbatches an optimiser step is divided into."""

from __future__ import annotations

import pytest

from rft.data.microbatches import count_microbatches


@pytest.mark.parametrize(
    ("rows", "row_tokens", "least", "tokens", "wanted"),
    [
        ((32,), 96, 1, None, 1),  # no bound
        ((32,), 32, 1, 1024, 1),  # just fits
        ((32,), 33, 1, 1024, 2),
        ((32,), 96, 1, 1024, 4),  # three would do, but do not divide
        ((32,), 96, 8, 1024, 8),  # more are asked for
        ((32, 8), 96, 1, 200, 8),  # 16 would do, but 8 rows to learn from are no 16 parts
        ((6,), 5000, 1, 1024, 6),  # a row alone is more
        ((6,), 10, 4, 1024, 6),
        ((6,), 10, 7, 1024, 7),  # refused by who makes the parts
        ((0,), 10, 1, 1024, 1),
    ],
)
def test_the_fewest_microbatches_that_divide_and_fit(
    rows: tuple[int, ...], row_tokens: int, least: int, tokens: int | None, wanted: int
) -> None:
    assert count_microbatches(*rows, row_tokens=row_tokens, least=least, tokens=tokens) == wanted
