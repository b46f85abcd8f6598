"""Histograms of an iteration count every finite value once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rft.callbacks.distributions import BINS, Distributions, counts


def test_values_fall_into_the_bins_that_they_are_in() -> None:
    found = counts(torch.tensor([0.0, 1.0, 1.0, float(BINS), float("nan"), float("inf"), -float("inf")]))
    assert found is not None
    assert found["edges"] == pytest.approx(list(range(BINS + 1)))
    assert found["counts"] == [1, 2, *[0] * (BINS - 3), 1]


@pytest.mark.parametrize("value", [0.0, 1.0, -3e8, 1e30])
def test_equal_values_are_in_one_bin(value: float) -> None:
    found = counts(torch.full((5,), value, dtype=torch.float64))
    assert found is not None
    assert sum(found["counts"]) == max(found["counts"]) == 5
    assert found["edges"][0] <= value <= found["edges"][-1]
    assert len(set(found["edges"])) == len(found["edges"]) == BINS + 1


def test_whole_numbers_and_half_precision_are_counted_too() -> None:
    for dtype in (torch.int64, torch.bfloat16):
        found = counts(torch.tensor([[1, 2], [3, 4]], dtype=dtype))
        assert found is not None
        assert sum(found["counts"]) == 4


def test_nothing_finite_has_no_histogram() -> None:
    assert counts(torch.tensor([float("nan")])) is None
    assert counts(torch.zeros(0)) is None


def test_they_are_the_same_out_of_a_file(tmp_path: Path) -> None:
    measured, again = Distributions(), Distributions()
    kept = counts(torch.tensor([0.1, 0.2, 0.7]))
    assert kept is not None
    measured.found = {4: {"distribution/ratio": kept}}
    measured.write(tmp_path / "file")
    again.read(tmp_path / "file")
    assert again.at(4) == measured.at(4) != {}
    assert again.at(5) == {}
    again.read(tmp_path / "none")
    assert again.at(4) == measured.at(4)
