"""The audit as a stage of a trial: beside what the trial is about, and charged to nobody."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rft.budget.stages import usage_of
from rft.report.costs import costs
from rft.report.load import load_study
from rft.report.provenance import shared_stages
from rft.store import Store
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, ON_POLICY, TINY, Result, Warm, rft, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

AUDITED = ("audit.pairs=20", "audit.attack_pairs=2", "audit.again_pairs=5", "audit.self_pairs=8", "tracker=none")


@pytest.fixture(scope="module")
def audited(sweep: Sweep, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The sweep's own trial with AI labels once more, with an audit; the sweep's store has the rest."""
    cwd = tmp_path_factory.mktemp("audited")
    outcome = warm(["run", *OF["rlaif"], "study=audited", *TINY, *AUDITED], cwd, sweep.store)
    assert outcome.code == 0, outcome.stderr
    (record,) = (cwd / "runs" / "audited").rglob("trial.json")
    return Result(record.parent, sweep.store)


def test_the_trial_notes_it_and_nothing_depends_on_it(audited: Result) -> None:
    stages = audited.record["stages"]
    figures = json.loads((audited.entry("audit") / "audit.json").read_text(encoding="utf-8"))
    assert figures["human"]["pairs"] == 20
    for stage in set(stages) - {"audit"}:
        manifest = json.loads((audited.entry(stage) / "manifest.json").read_text(encoding="utf-8"))
        assert stages["audit"]["key"] not in manifest["inputs"].values()


def test_the_other_stages_stay_where_they_were(audited: Result, sweep: Sweep) -> None:
    own, before = audited.record["stages"], sweep.trials["rlaif"].record["stages"]
    assert {stage: own[stage]["key"] for stage in ("sft", "candidates", "preferences", "reward_model")} == {
        stage: before[stage]["key"] for stage in ("sft", "candidates", "preferences", "reward_model")
    }
    assert not {"sft", "candidates", "preferences", "reward_model"} & audited.computed


def test_a_second_start_asks_nothing(audited: Result, warm: Warm) -> None:
    cwd = audited.folder.parents[3]
    outcome = warm(["run", *OF["rlaif"], "study=audited", *TINY, *AUDITED], cwd, audited.store)
    assert outcome.code == 0, outcome.stderr
    assert "nothing to compute" in outcome.stdout


def test_no_arm_is_charged(audited: Result, sweep: Sweep, tmp_path: Path) -> None:
    results = load_study(audited.folder.parents[1], Store(audited.store))
    (trial,) = results.trials
    found = costs(results, [trial.arm])
    seconds = {stage: use.seconds for stage, use in trial.stages.items()}
    charged = sum(s for stage, s in seconds.items() if stage not in ("audit", "policy", "evaluation"))
    assert found["arms"][trial.arm]["shared_seconds_per_seed"] == pytest.approx(charged)
    assert found["stages"]["audit"]["seconds"] == seconds["audit"]
    budget = found["budget"]["arms"][trial.arm]
    entries = [trial.stages[name].entry for name in ("sft", "candidates", "preferences", "reward_model")]
    judged = sum(usage_of(entry).labels for entry in entries if entry is not None)
    assert budget["full"]["labels"] == judged
    assert "audit" not in shared_stages(results, [trial.arm])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_small_model_judges_by_examples_near_people_and_by_place_when_it_is_asked_for_a_letter(
    fresh: Path, tmp_path: Path
) -> None:
    """The default judge and the A/B form on the default model, against the real ratings."""
    asked = ["judge=few_shot,pairwise", "audit.again_pairs=0", "audit.attack_pairs=0", "--json"]
    outcome = rft(["judge", "audit", *asked], tmp_path, fresh, RFT_THREADS="2", OMP_NUM_THREADS="2")
    assert outcome.code == 0, outcome.stderr
    few_shot, letters = json.loads(outcome.stdout)
    clear = {one["above"]: one for one in few_shot["human"]["clear"]}
    figures = {
        "AUC": few_shot["human"]["auc"]["value"],
        "AUC of the clearest": clear[1.0]["auc"]["value"],
        "accuracy": few_shot["human"]["accuracy"]["value"],
        "accuracy on clear pairs": clear[0.5]["accuracy"]["value"],
        "same position": letters["order"]["same_position"]["value"],
    }
    print(figures)
    assert 0.89 <= figures["AUC"] <= 0.93
    assert 0.92 <= figures["AUC of the clearest"] <= 0.96
    assert 0.70 <= figures["accuracy"] <= 0.79
    assert 0.77 <= figures["accuracy on clear pairs"] <= 0.86
    assert figures["same position"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ("algorithm=grpo", "reward=judge", "judge=few_shot"),
        ("algorithm=rloo", "judge=simulated", "judge.accuracy=0.8"),
        ("algorithm=simpo", "judge=simulated", "judge.accuracy=0.8"),
        ("algorithm=kto", "judge=few_shot"),
        ("algorithm=online_dpo", "reward=judge", "judge=few_shot"),
    ],
    ids=lambda parts: parts[0].partition("=")[2],
)
def test_any_algorithm_learns_from_ai_feedback(
    parts: tuple[str, ...], shared: Path, warm: Warm, tmp_path: Path
) -> None:
    more = ("feedback=ai", "arm=ai", "tracker=none")
    length = ("algorithm.pairs_per_step=4",) if parts[0].endswith(("simpo", "kto")) else ON_POLICY[:2]
    outcome = warm(["run", *parts, *more, *length, *TINY], tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    history = Result(trial_folder(tmp_path, "ai"), shared).history()
    assert history
    assert all(math.isfinite(row["train/loss"]) for row in history)
