"""`make quick` learns: every algorithm is in it, and beats the start policy over three seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft.testing.suite import algorithm_names
from tests.integration.harness import REPOSITORY, rft


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_algorithm_beats_the_start_policy(fresh: Path, tmp_path: Path) -> None:
    outcome = rft(["compare", str(REPOSITORY / "experiments" / "quick")], tmp_path, fresh, RFT_THREADS=None)
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((tmp_path / "runs" / "quick" / "summary.json").read_text(encoding="utf-8"))
    arms = summary["arms"]
    assert set(arms) == {*algorithm_names()}
    behind = {}
    for name, arm in arms.items():
        assert arm["seeds"] == [0, 1, 2]
        difference = arm["splits"]["test"]["difference"]
        if name != summary["control"] and difference["mean"] <= 0:
            behind[name] = difference
    assert not behind
