"""Every registered algorithm keeps what the suite checks, under its defaults and its variants."""

from __future__ import annotations

import pytest

from rft.config import to_config
from rft.config.build import target_class
from rft.config.compose import compose
from rft.testing import check_algorithm, check_class
from rft.testing.suite import algorithm_names
from tests.conformance.derived import derived, of_their_own

# What takes longest, but for one or two of each kind of data.
LONGER = {"grpo", "online_feedback", "reinforce_pp"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONGER)) for name in of_their_own()]
)
def test_conformance(name: str) -> None:
    check_algorithm(name).require()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "rlaif")) for name in derived()]
)
def test_conformance_of_one_that_another_is_under_other_feedback(name: str) -> None:
    cfg = compose([f"algorithm={name}", "model=tiny"])
    check_class(target_class(cfg.algorithm), to_config(cfg.algorithm), variants=False).require()


@pytest.mark.slow
@pytest.mark.parametrize("name", derived())
def test_conformance_under_the_variants_of_that_one(name: str) -> None:
    check_algorithm(name).require()


def test_each_algorithm_is_one_or_the_other() -> None:
    assert sorted([*of_their_own(), *derived()]) == sorted(algorithm_names())
    assert {"dpo", "grpo", "ppo", "online_dpo", "rloo", "kto"} <= set(of_their_own())
