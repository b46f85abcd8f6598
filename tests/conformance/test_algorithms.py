"""Every registered algorithm keeps what the suite checks, under its defaults and its variants."""

from __future__ import annotations

import pytest

from rft.testing import check_algorithm
from rft.testing.suite import algorithm_names


@pytest.mark.parametrize("name", sorted(algorithm_names()))
def test_conformance(name: str) -> None:
    check_algorithm(name).require()
