"""``rft check-algorithm``: settings go to those that have them, all pass in time, README shows what it prints."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from rft.cli.check_algorithm import _of_each, check
from rft.errors import UserError
from rft.testing.suite import algorithm_names
from tests.integration.harness import REPOSITORY, rft

SAMPLE = "rft check-algorithm rloo"


@pytest.mark.slow
def test_a_setting_goes_to_those_that_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["algorithm.gamma=0.9", "algorithm.lr=1e-4"]
    settings = _of_each(asked, Console(width=80))
    assert list(settings) == [*algorithm_names()]
    having = ["constitutional", "ppo", "reinforce_pp", "rlaif", "rlaif_direct"]
    assert [name for name, own in settings.items() if own == asked] == having
    assert settings["dpo"] == settings["best_of_n"] == asked[1:]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"algorithm.gamma=0.9: set for {', '.join(having)}; without it: best_of_n, dpo, ")
    assert said[1] == f"algorithm.lr=1e-4: set for {', '.join(algorithm_names())}"


def test_one_that_none_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"--set algorithm\.gama=1: no algorithm has that setting; did you mean"):
        check([], ["algorithm.gama=1"], ["gold"], everything=True)


def test_a_value_that_does_not_fit_is_refused_before_anything_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"algorithm\.kl_coef=-1\.0: must be at least 0"):
        check([], ["algorithm.kl_coef=-1"], ["gold"], everything=True)
    assert "passed" not in capsys.readouterr().out


def lines(printed: str) -> list[list[str]]:
    """The cells of each row of what the command prints, every number as #; rules and empty lines left out."""
    kept = [line.strip() for line in printed.splitlines() if line.strip(" ─")]
    cells = [[cell for cell in re.split(r"\s{2,}", line) if cell] for line in kept]
    return [[re.sub(r"-?\d+(\.\d+)?(e[+-]\d+)?", "#", cell) for cell in row] for row in cells]


def shown(page: str) -> str:
    """What a page shows below the command."""
    found = re.search(rf"^```console\n\$ {SAMPLE}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, f"README.md has no console block with $ {SAMPLE}"
    return found[1]


def test_readme_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no row is broken
    assert check(SAMPLE.split()[2:], [], [], everything=False)
    printed = capsys.readouterr().out
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    fresh = "\n".join(line.rstrip() for line in printed.splitlines() if line.strip())
    assert lines(shown(page)) == lines(printed), f"README.md is stale; put this below $ {SAMPLE}:\n{fresh}"


def test_only_numbers_may_differ_from_what_is_shown() -> None:
    printed = " check  settings      measured \n ─────\n  ratio           ok   1.5e-07 apart\n\n1 passed, in 3 s\n"
    assert lines(printed) == lines(printed.replace("1.5e-07", "0").replace("3 s", "12 s").replace("  ratio", "ratio"))
    assert lines(printed) != lines(printed.replace("apart", "apart; gradient as well"))
    assert lines(printed) != lines(printed.replace("ok", "–"))
    assert shown(f"```console\n$ {SAMPLE}\n{printed}```\n") == printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_algorithms_pass_in_less_than_five_minutes(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = rft(["check-algorithm", "--all"], tmp_path, tmp_path / "store")
    seconds = time.monotonic() - started
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert seconds < 300, f"{seconds:.0f} s"
