"""The gold reward that a study's first job makes beside its own stages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rft.study.jobs import AHEAD
from tests.integration.harness import TINY, Warm, alive, wait_until

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__)]

FIRST = ("run", "until=candidates", "tracker=none", *TINY)
SLOW = ("run", "until=questions", *FIRST[2:], "task.gold_fit_reviews=20000", "task.gold_heldout_reviews=2000")
"""What is made ahead takes longer than the job, and there is no training, which puts off an end."""
ASKED = {AHEAD: "1", "RFT_THREADS": "2", "OMP_NUM_THREADS": "2"}


def kinds(store: Path) -> set[str]:
    return {folder.parent.parent.name for folder in store.glob("*/*/manifest.json")}


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def test_is_there_when_the_job_ends(warm: Warm, fresh: Path, tmp_path: Path) -> None:
    outcome = warm(SLOW, tmp_path, fresh, **ASKED)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert {"questions", "gold"} <= kinds(fresh)
    assert "gold" not in outcome.stdout


@pytest.mark.parametrize("missing", [{AHEAD: None}, pytest.param({"RFT_THREADS": "1"}, marks=pytest.mark.slow)])
def test_is_not_made_unasked(warm: Warm, fresh: Path, tmp_path: Path, missing: dict[str, str | None]) -> None:
    assert warm(FIRST, tmp_path, fresh, **(ASKED | missing)).code == 0
    assert "candidates" in kinds(fresh)
    assert "gold" not in kinds(fresh)


@pytest.mark.slow
def test_that_cannot_be_made_is_for_those_to_tell_who_need_it(warm: Warm, fresh: Path, tmp_path: Path) -> None:
    (fresh / "gold").write_text("in the way", encoding="utf-8")
    outcome = warm(FIRST, tmp_path, fresh, **ASKED)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "candidates" in kinds(fresh)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_ends_with_the_job(warm: Warm, fresh: Path, tmp_path: Path, number: int) -> None:
    pid = warm.start(SLOW, tmp_path, fresh, **ASKED)
    wait_until(lambda: list(fresh.glob("locks/gold.*")))
    (child,) = children(pid)
    os.kill(pid, number)
    assert warm.wait().code != 0
    wait_until(lambda: not alive(child))
    assert "gold" not in kinds(fresh)


@pytest.mark.slow
def test_is_made_by_the_job_itself_that_needs_it(warm: Warm, fresh: Path, tmp_path: Path) -> None:
    outcome = warm(["run", "until=preferences", *FIRST[2:]], tmp_path, fresh, **ASKED)
    assert outcome.code == 0, outcome.stderr
    assert "gold" in outcome.stdout
