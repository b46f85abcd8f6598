"""`make quick` learns: every algorithm in it beats the start policy over three seeds; only modes with a judge lack.

What is trained beats it if the interval of the difference lies above 0; what is not trained, if the mean does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft.config import compose
from rft.config.build import target_class
from rft.testing.suite import algorithm_names
from tests.integration.harness import REPOSITORY, rft
from tests.integration.test_same_numbers import MODES


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_algorithm_beats_the_start_policy(fresh: Path, tmp_path: Path) -> None:
    outcome = rft(["compare", str(REPOSITORY / "experiments" / "quick")], tmp_path, fresh, RFT_THREADS=None)
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((tmp_path / "runs" / "quick" / "summary.json").read_text(encoding="utf-8"))
    arms = summary["arms"]
    assert set(arms) == {*algorithm_names()} - MODES
    behind = []
    for name in sorted(set(arms) - {summary["control"]}):
        assert arms[name]["seeds"] == [0, 1, 2]
        difference = arms[name]["splits"]["test"]["difference"]
        low, high = difference["low"], difference["high"]
        excludes = "excludes 0" if low > 0 or high < 0 else "holds 0"
        print(f"{name}: {difference['mean']:+.3f} ({low:+.3f} to {high:+.3f}), {excludes}")
        trained = target_class(compose([f"algorithm={name}"]).algorithm).data_kind != "none"
        if (low if trained else difference["mean"]) <= 0:
            behind.append(name)
    assert not behind
