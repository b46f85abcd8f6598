"""Reductions and whitening over counted tokens. Dimensions: ``B`` sequences, ``R`` tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rft.ops.masked import fixed_mean, masked_mean, masked_sum, sequence_mean, whiten
from tests.numerics.ragged import assert_padding_is_nothing, longer, padded, ragged

MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_mean": masked_mean,
    "sequence_mean": sequence_mean,
    "fixed_mean": partial(fixed_mean, length=4),
}

# Rows of 4, 1 and 3 tokens with sums 10, 5 and 9.
X = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, math.nan, math.inf, 9.0], [1.0, 2.0, 6.0, -math.inf]])
MASK = torch.arange(4)[None] < torch.tensor([4, 1, 3])[:, None]


def test_the_sum_is_that_of_each_row() -> None:
    assert masked_sum(X, MASK).tolist() == [10.0, 5.0, 9.0]


# Over all tokens 24 / 8; over rows (10/4 + 5/1 + 9/3) / 3; over three rows of four 24 / 12.
@pytest.mark.parametrize(("name", "wanted"), [("masked_mean", 3.0), ("sequence_mean", 3.5), ("fixed_mean", 2.0)])
def test_means_by_hand(name: str, wanted: float) -> None:
    x = X.clone().requires_grad_()
    mean = MEANS[name](x, MASK)
    assert mean.shape == ()
    assert mean.item() == pytest.approx(wanted)
    # What is not counted is not a number here, and still leaves every gradient one.
    (gradient,) = torch.autograd.grad(mean, x)
    assert gradient[~MASK].eq(0).all()
    assert gradient.isfinite().all()


# Each token's weight: 1/8; 1 / (3 · its row's length); 1 / (3 · 4).
@pytest.mark.parametrize(
    ("name", "weights"),
    [("masked_mean", [1 / 8] * 3), ("sequence_mean", [1 / 12, 1 / 3, 1 / 9]), ("fixed_mean", [1 / 12] * 3)],
)
def test_the_weight_of_a_token_by_hand(name: str, weights: list[float]) -> None:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(MEANS[name](x, MASK), x)
    torch.testing.assert_close(gradient, torch.tensor(weights)[:, None] * MASK)


# Rows of two tokens, 1 and 3, and of none: 4 / 2; (2 + 0) / 2; 4 / (2 · 4).
@pytest.mark.parametrize(("name", "wanted"), [("masked_mean", 2.0), ("sequence_mean", 1.0), ("fixed_mean", 0.5)])
def test_a_row_without_counted_tokens_by_hand(name: str, wanted: float) -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert MEANS[name](torch.tensor([[1.0, 3.0], [9.0, 9.0]]), mask).item() == pytest.approx(wanted)


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("rows", [0, 2])
def test_nothing_counted_is_zero(name: str, rows: int) -> None:
    x = torch.ones(rows, 3, requires_grad=True)
    mean = MEANS[name](x, torch.zeros(rows, 3, dtype=torch.bool))
    assert mean.item() == 0.0
    assert torch.autograd.grad(mean, x)[0].eq(0).all()


@pytest.mark.parametrize("name", MEANS)
def test_gradients_of_means_are_those_of_finite_differences(name: str) -> None:
    (x,), mask = ragged(1)
    assert torch.autograd.gradcheck(lambda x: MEANS[name](x, mask), x.requires_grad_())


@pytest.mark.parametrize("name", MEANS)
def test_means_count_no_padding(name: str) -> None:
    (x,), mask = ragged(1)
    assert_padding_is_nothing(MEANS[name], x, mask)


@pytest.mark.parametrize("name", ["sequence_mean", "fixed_mean"])
def test_means_over_sequences_are_the_means_of_equal_parts(name: str) -> None:
    (x, more), mask = ragged(2)
    both = MEANS[name](torch.cat([x, more]), torch.cat([mask, mask]))
    torch.testing.assert_close((MEANS[name](x, mask) + MEANS[name](more, mask)) / 2, both)


def test_a_fixed_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="length=0: must be at least 1"):
        fixed_mean(X, MASK, 0)


def test_whitening_counts_only_the_mask() -> None:
    x = torch.tensor([[1.0, 3.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(whiten(x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(whiten(x, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


def test_whitening_by_hand_over_ragged_rows() -> None:
    # Counted are 0, 2, 4 in one row and 6 in the other: mean 3, biased variance (9 + 1 + 1 + 9) / 4 = 5.
    x, mask = torch.tensor([[0.0, 2.0, 4.0], [6.0, 9.0, math.nan]]), torch.tensor([[True] * 3, [True, False, False]])
    wanted = torch.tensor([[-3.0, -1.0, 1.0], [3.0, 0.0, 0.0]]) / math.sqrt(5)
    torch.testing.assert_close(whiten(x, mask), wanted)
    torch.testing.assert_close(whiten(padded(x), longer(mask)), padded(wanted, 0.0))


def test_whitening_equal_values_gives_zeros() -> None:
    assert whiten(torch.full((2, 3), 0.1), torch.ones(2, 3, dtype=torch.bool)).abs().max() < 1e-3


def whiten_on_a_rank(rank: int, meeting: str, rows: list[slice], x: Tensor, mask: Tensor, wanted: Tensor) -> None:
    """One of two processes: its rows, whitened, are those of the whole batch."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        own = rows[rank]
        torch.testing.assert_close(whiten(x[own], mask[own]), wanted[own])
    finally:
        torch.distributed.destroy_process_group()


def test_whitening_is_over_all_ranks_however_uneven_their_rows(tmp_path: Path) -> None:
    (x,), mask = ragged(1)
    wanted = whiten(x, mask)
    rows = [slice(0, 1), slice(1, 3)]
    assert not torch.allclose(whiten(x[rows[0]], mask[rows[0]]), wanted[rows[0]], atol=0.1)
    torch.multiprocessing.spawn(whiten_on_a_rank, (str(tmp_path / "meeting"), rows, x, mask, wanted), nprocs=2)
