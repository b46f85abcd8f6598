"""How many microbatches an optimiser step is divided into, and which rows they hold."""

from __future__ import annotations

import pytest
import torch

from rft.data import microbatches
from rft.data.microbatches import count_microbatches, passes
from rft.types import ComparisonBatch, ExampleBatch, Sequences


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


def sequences(rows: int) -> Sequences:
    """Of ten tokens, the response of row i being i times as many of them."""
    ids = torch.arange(rows)[:, None].expand(rows, 5)
    counted = torch.ones(rows, 5, dtype=torch.bool)
    return Sequences(ids, counted, ids, torch.arange(5) < torch.arange(rows)[:, None])


@pytest.mark.parametrize(
    ("tokens", "least", "group", "wanted"),
    [
        (100, 1, 1, [10]),
        (70, 1, 1, [7, 3]),
        (70, 1, 4, [4, 4, 2]),  # those of one prompt stay together
        (30, 1, 4, [3, 3, 3, 1]),  # there is no room for them
        (30, 5, 4, [5, 5]),
        (1, 1, 1, [1] * 10),
    ],
)
def test_passes_have_room_for_so_many_tokens(
    tokens: int, least: int, group: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microbatches, "PASSED_TOKENS", tokens)
    parts = passes(sequences(10), least, group)
    assert [len(part) for part in parts] == wanted
    assert torch.equal(torch.cat([part.prompt_ids for part in parts]), sequences(10).prompt_ids)


@pytest.mark.parametrize(("tokens", "wanted"), [(None, [5]), (50, [5]), (49, [4, 1]), (20, [2, 2, 1]), (3, [1] * 5)])
def test_examples_are_divided_by_rows(tokens: int | None, wanted: list[int]) -> None:
    parts = ExampleBatch(sequences(5)).parts(tokens)
    assert [len(part) for part in parts] == wanted
    assert torch.equal(torch.cat([part.sequences.prompt_ids for part in parts]), sequences(5).prompt_ids)
    assert sum(part.count for part in parts) == 0 + 1 + 2 + 3 + 4


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        (None, [[(1, 0), (1, 2), (4, 3), (6, 5)]]),
        (70, [[(1, 0), (1, 2), (4, 3), (6, 5)]]),
        (69, [[(1, 0), (1, 2), (4, 3)], [(6, 5)]]),
        (40, [[(1, 0), (1, 2)], [(4, 3), (6, 5)]]),
        (20, [[(1, 0), (1, 2)], [(4, 3)], [(6, 5)]]),  # three answers that are compared stay together
        (1, [[(1, 0), (1, 2)], [(4, 3)], [(6, 5)]]),
    ],
)
def test_comparisons_are_divided_where_they_have_no_answer_in_common(
    tokens: int | None, wanted: list[list[tuple[int, int]]]
) -> None:
    chosen, rejected = torch.tensor([1, 1, 4, 6]), torch.tensor([0, 2, 3, 5])
    preference = torch.tensor([0.6, 0.7, 0.8, 0.9])
    parts = ComparisonBatch(sequences(7), chosen, rejected, preference).parts(tokens)

    def answers(part: ComparisonBatch, rows: torch.Tensor) -> list[int]:
        found: list[int] = part.answers.prompt_ids[rows, 0].tolist()
        return found

    found = [list(zip(answers(p, p.chosen), answers(p, p.rejected), strict=True)) for p in parts]
    assert found == wanted
    assert torch.equal(torch.cat([part.preference for part in parts]), preference)
    assert sum(len(part.answers) for part in parts) == 7


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([(1, 0)], [1]),
        ([(1, 0), (1, 2)], [2]),
        ([(0, 1), (2, 3), (1, 2)], [3]),  # the last has answers of both before it
        ([(0, 1), (2, 3), (1, 2), (4, 5)], [3, 1]),
        ([(5, 4), (0, 1), (2, 3), (1, 2)], [1, 3]),
    ],
)
def test_no_answer_is_scored_twice(pairs: list[tuple[int, int]], wanted: list[int]) -> None:
    chosen, rejected = torch.tensor(pairs).T
    answers = sequences(int(torch.tensor(pairs).max()) + 1)
    parts = ComparisonBatch(answers, chosen, rejected, torch.ones(len(pairs))).parts(1)
    assert [len(part) for part in parts] == wanted
    assert sum(len(part.answers) for part in parts) == len(answers)
