"""A judge that scores the answers of the final test, and the refusal of one's own teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rft.report import load_study, summarise
from rft.store import Store
from tests.integration.harness import OF, TINY, Result, Warm, files_under, study, trial_folder

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("judge"), pytest.mark.timeout(900)]
JUDGE = ("eval_judge=few_shot", "eval_judge.batch_size=4")


def table(result: Result) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(result.entry("evaluation") / "evaluation.parquet").to_pydict()
    return found


def metrics(result: Result) -> dict[str, Any]:
    manifest = json.loads((result.entry("evaluation") / "manifest.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = manifest["metrics"]
    return found


def test_a_judge_scores_the_answers_and_changes_nothing_else(warm: Warm, shared: Path, tmp_path: Path) -> None:
    def run(name: str, *overrides: str) -> Result:
        for other in tmp_path.glob(f"runs/scratch/{name}-s0-*"):  # with other settings
            shutil.rmtree(other)
        outcome = warm(["run", *OF[name], *TINY, "tracker=none", *overrides], tmp_path, shared)
        assert outcome.code == 0, outcome.stderr
        return Result(trial_folder(tmp_path, name), shared)

    def key(result: Result) -> str:
        return str(result.record["stages"]["evaluation"]["key"])

    # Named by hand: a run's own name holds all of its overrides.
    plain = run("sft", "arm=sft")
    without, rows = key(plain), table(plain)
    assert "judge" not in rows
    assert key(run("sft", "arm=sft", "evaluation.same_judge=few_shot")) == without

    judged = run("sft", "arm=sft", *JUDGE)
    scores = table(judged).pop("judge")
    assert key(judged) != without
    assert judged.computed == {"evaluation"}
    assert {name: column for name, column in table(judged).items() if name != "judge"} == rows
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 1
    of_test = [score for split, score in zip(rows["split"], scores, strict=True) if split == "test"]
    found = metrics(judged)
    assert found["eval/test/judge"] == pytest.approx(np.mean(of_test))
    assert (found["eval/test/judge_excluded"], found["eval/judge_taught"]) == (0.0, 0.0)

    before = files_under(shared)
    refused = warm(["run", *OF["rlaif"], *TINY, "tracker=none", *JUDGE], tmp_path, shared).error
    assert refused.startswith("rft: eval_judge: the policy learns from the same judge, few_shot")
    assert "evaluation.same_judge=few_shot" in refused
    assert files_under(shared) == before

    taught = run("rlaif", "arm=rlaif", *JUDGE, "evaluation.same_judge=few_shot")
    assert metrics(taught)["eval/judge_taught"] == 1.0
    summary = summarise(load_study(tmp_path / "runs" / "scratch", Store(shared)))
    assert summary["eval_judge"]["taught"] == ["rlaif"]
    both = {arm: record["splits"]["test"]["judge"] for arm, record in summary["arms"].items()}
    assert both["sft"]["mean"] == pytest.approx(found["eval/test/judge"])
    assert both["rlaif"]["difference"]["mean"] == pytest.approx(both["rlaif"]["mean"] - both["sft"]["mean"])


def test_a_study_is_refused_before_anything_is_computed(warm: Warm, fresh: Path, tmp_path: Path) -> None:
    before = files_under(fresh)
    folder = study(
        tmp_path / "experiments" / "own", overrides=[*TINY, *JUDGE], arms={"sft": OF["sft"], "rlaif": OF["rlaif"]}
    )
    told = warm(["compare", str(folder)], tmp_path, fresh).error
    assert told.startswith("rft: arm rlaif: eval_judge: the policy learns from the same judge")
    assert files_under(fresh) == before
