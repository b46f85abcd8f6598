"""The audit as a stage of a trial: beside what the trial is about, and charged to nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft.budget.stages import usage_of
from rft.report.costs import costs
from rft.report.load import load_study
from rft.report.provenance import shared_stages
from rft.store import Store
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Result, Warm

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("trials"), pytest.mark.timeout(900)]

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
