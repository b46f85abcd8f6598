"""``rft check-algorithm --all --set``: a setting goes to the algorithms that have it."""

from __future__ import annotations

import pytest
from rich.console import Console

from rft.cli.check_algorithm import _of_each, check
from rft.errors import UserError
from rft.testing.suite import algorithm_names


def test_a_setting_goes_to_those_that_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["algorithm.gamma=0.9", "algorithm.lr=1e-4"]
    settings = _of_each(asked, Console(width=80))
    assert list(settings) == [*algorithm_names()]
    assert {name for name, own in settings.items() if own == asked} == {"ppo", "reinforce_pp", "rlaif"}
    assert settings["dpo"] == settings["best_of_n"] == asked[1:]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("algorithm.gamma=0.9: set for ppo, reinforce_pp, rlaif; without it: best_of_n, dpo, ")
    assert said[1] == f"algorithm.lr=1e-4: set for {', '.join(algorithm_names())}"


def test_one_that_none_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"--set algorithm\.gama=1: no algorithm has that setting; did you mean"):
        check([], ["algorithm.gama=1"], ["gold"], everything=True)


def test_a_value_that_does_not_fit_is_refused_before_anything_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"algorithm\.kl_coef=-1\.0: must be at least 0"):
        check([], ["algorithm.kl_coef=-1"], ["gold"], everything=True)
    assert "passed" not in capsys.readouterr().out
