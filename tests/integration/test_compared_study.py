"""A small study of three algorithms and two seeds, run and compared offline, as W&B's records have it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import TINY, Warm, tracked

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


def artifacts(records: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """Name, digest and whether it is used, of each."""
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    return [(one["name"], one["digest"], bool(one.get("use_after_commit"))) for one in found]


def test_six_trials_and_a_comparison_join_up(shared: Path, warm: Warm, tmp_path: Path) -> None:
    sweep = ["algorithm=sft,ppo,dpo", "seed=0,1", "study=three", *TINY]
    for command in (["run", "-m", *sweep], ["compare", "three"]):
        outcome = warm(command, tmp_path, shared)
        assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "runs" / "three"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    trials = [records for one in sorted(folder.glob("*-s?-????????")) for records in tracked(one)]
    shares = [records for one in sorted((folder / "comparison").glob("*-????????")) for records in tracked(one)]
    (comparison,) = tracked(folder / "comparison")
    assert len(trials) == 6
    kinds = [record["run"]["job_type"] for records in shares for record in records if record["type"] == "run"]
    assert sorted(kinds) == sorted(set(kinds)) == ["candidates", "preferences", "questions", "reward_model", "sft"]
    ids = [r["run"]["run_id"] for records in [*trials, *shares, comparison] for r in records if r["type"] == "run"]
    assert len(set(ids)) == len(ids) == 6 + 5 + 1
    groups = {
        r["run"]["run_group"] for records in [*trials, *shares, comparison] for r in records if r["type"] == "run"
    }
    assert groups == {"three"}

    stages = {r["run"]["job_type"]: records for records in shares for r in records if r["type"] == "run"}
    assert {stage: {name for name, _, used in artifacts(records) if used} for stage, records in stages.items()} == {
        "questions": set(),
        "sft": {"prompts"},
        "candidates": {"prompts", "sft"},
        "preferences": {"candidates"},
        "reward_model": {"sft", "candidates", "preferences"},
    }
    made = {(name, digest) for records in [*trials, *shares] for name, digest, used in artifacts(records) if not used}
    used = {(name, digest) for records in [*trials, *shares] for name, digest, used in artifacts(records) if used}
    assert used <= made
    tests = {(name, digest) for name, digest, used in artifacts(comparison) if used}
    assert tests <= made
    # What is common to all of a multirun is in the names of its arms, and not in those of the summary.
    assert sorted(re.sub(r"-model\..*-", "-", name) for name, _ in tests) == sorted(
        f"evaluation-{arm}-s{seed}" for arm in ("sft", "ppo", "dpo") for seed in (0, 1)
    )

    (row,) = [record["history"]["item"] for record in comparison if record["type"] == "history"]
    for arm, own in summary["arms"].items():
        for split, numbers in own["splits"].items():
            assert row[f"{split}/{arm}/gold"] == numbers["gold"]["mean"]
    again = warm(["compare", "three"], tmp_path, shared)
    assert again.code == 0, again.stderr
    assert len(tracked(folder / "comparison")) == 1
