"""What W&B is told of a study as a whole: its shared stages and its comparison, once, with the summary's numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import tracked
from tests.told_study import tell

pytestmark = pytest.mark.xdist_group(__name__)
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("told")
    assert tell(root, arms=("sft", "ppo", "dpo"), times=2).stdout == "[]\n"
    return root / "runs" / "demo"


def of(records: Records, kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def artifacts(records: Records, *, used: bool) -> dict[str, dict[str, Any]]:
    found = [one for one in of(records, "artifact") if one["type"] != "run_table"]
    return {one["name"]: one for one in found if bool(one.get("use_after_commit")) == used}


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"wandb/offline-run-*/files/media/table/{name}_*.table.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_the_comparison_is_one_run_and_says_what_the_summary_says(study: Path) -> None:
    (records,) = tracked(study / "comparison")
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    (run,) = of(records, "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("demo", "comparison", "comparison · demo")
    assert run["notes"].startswith(summary["verdict"]["headline"])
    assert [one["exit_code"] for one in of(records, "exit")] == [0]
    (row,) = [one["item"] for one in of(records, "history")]
    for arm, own in summary["arms"].items():
        for split, numbers in own["splits"].items():
            assert row[f"{split}/{arm}/gold"] == numbers["gold"]["mean"]
            assert row[f"{split}/{arm}/gold/low"] == numbers["gold"]["low"]
            assert row[f"{split}/{arm}/kl"] == numbers["kl"]
            if arm != "sft":
                assert row[f"{split}/{arm}/difference/high"] == numbers["difference"]["high"]
                assert row[f"{split}/{arm}/p"] == numbers["difference"]["holm_p"]
    said = {name: value for one in of(records, "summary") for name, value in one["update"].items()}
    assert said["verdict"] == summary["verdict"]["headline"]
    assert said["verdict/test/ppo"] == summary["arms"]["ppo"]["splits"]["test"]["difference"]["verdict"]
    assert said["report._type"] == "html-file"
    assert {"figures/forest._type", "figures/frontier._type"} <= set(said)


def test_its_tables_hold_every_arm_and_pair_with_intervals(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    arms = {(row["split"], row["arm"]): row for row in table(study / "comparison", "arms")}
    assert set(arms) == {(split, arm) for split in summary["splits"] for arm in summary["arms"]}
    own = summary["arms"]["dpo"]["splits"]["ood"]
    row = arms["ood", "dpo"]
    assert [row["gold"], row["gold low"], row["gold high"]] == [own["gold"][one] for one in ("mean", "low", "high")]
    assert row["holm_p"] == own["difference"]["holm_p"]
    assert arms["test", "sft"]["difference"] is None
    pairs = {(row["split"], row["arm"], row["against"]): row for row in table(study / "comparison", "comparisons")}
    assert len(pairs) == sum(len(found) for found in summary["pairs"].values()) == 6
    for split, found in summary["pairs"].items():
        for pair in found:
            row = pairs[split, pair["arm"], pair["against"]]
            assert [row["difference"], row["difference low"], row["verdict"]] == [
                pair["mean"], pair["low"], pair["verdict"],
            ]  # fmt: skip


def test_the_report_is_made_from_the_final_tests(study: Path) -> None:
    (records,) = tracked(study / "comparison")
    assert set(artifacts(records, used=True)) == {
        f"evaluation-{arm}-s{seed}" for arm in ("sft", "ppo", "dpo") for seed in (0, 1)
    }
    (report,) = artifacts(records, used=False).values()
    assert (report["name"], report["type"], report.get("user_created", False)) == ("report-demo", "report", False)
    files = {one["path"]: Path(one["local_path"]) for one in report["manifest"]["contents"]}
    assert {"report.html", "report.md", "summary.json", "figures/forest.svg"} <= set(files)
    assert files["report.html"].read_bytes() == (study / "report.html").read_bytes()
    assert all(study in path.parents for path in files.values())


def test_each_shared_stage_has_a_run_that_makes_it_from_its_inputs(study: Path) -> None:
    runs: dict[str, Records] = {}
    for folder in sorted((study / "comparison").glob("*-????????")):
        (records,) = tracked(folder)
        (run,) = of(records, "run")
        runs[run["job_type"]] = records
        assert run["run_group"] == "demo"
    assert set(runs) == {"questions", "sft", "candidates", "preferences", "reward_model"}
    made = {stage: next(iter(artifacts(records, used=False).values())) for stage, records in runs.items()}
    (used,) = artifacts(runs["reward_model"], used=True).values()
    assert (used["name"], used["digest"]) == ("preferences", made["preferences"]["digest"])
    assert made["questions"]["name"] == "prompts"
    (row,) = [one["item"] for one in of(runs["reward_model"], "history")]
    assert row["reward_model/heldout_accuracy"] == 0.784


@pytest.mark.slow
def test_another_report_goes_on_in_the_same_run(study: Path) -> None:
    before = json.loads((study / "comparison" / ".told").read_text(encoding="utf-8"))
    stages = sorted((study / "comparison").glob("*-????????/wandb/offline-run-*"))
    assert before["times"] == 1
    (old,) = (study / "comparison").glob("wandb/offline-run-*")
    assert tell(study.parents[1], arms=("sft", "ppo", "dpo"), seeds=3).stdout == "[]\n"
    after = json.loads((study / "comparison" / ".told").read_text(encoding="utf-8"))
    assert (after["id"], after["times"]) == (before["id"], 2)
    (new,) = (study / "comparison").glob("wandb/offline-run-*")
    assert new != old
    assert sorted((study / "comparison").glob("*-????????/wandb/offline-run-*")) == stages
    (records,) = tracked(study / "comparison")
    assert len(artifacts(records, used=True)) == 9


SWEPT = ("sft", "ppo-lr=0.001,epochs=2")
"""As `rft run -m` names arms that differ in settings."""


@pytest.mark.slow
def test_mlflow_has_the_comparison_of_a_sweep_over_settings(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    assert tell(tmp_path, arms=SWEPT, tracker=["tracker=mlflow"]).stdout == "[]\n"
    folder = tmp_path / "runs" / "demo"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    (found,) = [run for run in runs if run.data.tags["rft.stage"] == "comparison"]
    gold = summary["arms"][SWEPT[1]]["splits"]["test"]["gold"]["mean"]
    assert found.data.metrics["test/ppo-lr_0.001_epochs_2/gold"] == gold
    assert found.data.params["arms.ppo-lr_0.001_epochs_2.algorithm"]
    assert found.data.tags["verdict"] == summary["verdict"]["headline"]
    made = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert {"report", "report-demo", "arms.json", "comparisons.json"} <= made
    assert {"sft", "reward_model", "questions"} <= {run.data.tags["rft.stage"] for run in runs}


@pytest.mark.slow
def test_tensorboard_has_the_comparison(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    assert tell(tmp_path, arms=SWEPT, tracker=["tracker=tensorboard"]).stdout == "[]\n"
    folder = tmp_path / "runs" / "demo"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    events = EventAccumulator(str(folder / "comparison" / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    (gold,) = events.Tensors(f"test/{SWEPT[1]}/gold")
    wanted = summary["arms"][SWEPT[1]]["splits"]["test"]["gold"]["mean"]
    assert float(tensor_util.make_ndarray(gold.tensor_proto)) == wanted
    (verdict,) = events.Tensors("verdict/text_summary")
    assert verdict.tensor_proto.string_val[0].decode() == summary["verdict"]["headline"]


@pytest.mark.slow
def test_trackio_has_the_comparison(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    assert tell(tmp_path, arms=SWEPT, tracker=["tracker=trackio"]).stdout == "[]\n"
    folder = tmp_path / "runs" / "demo"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    code = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "(run,) = [one for one in trackio.Api().runs('demo') if one.name.startswith('comparison')]\n"
        "print(json.dumps(S.get_logs('demo', run.name, run_id=run.id)))"
    )
    env = {**os.environ, "TRACKIO_DIR": str(folder / "trackio")}
    read = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found = {name: value for row in json.loads(read.stdout.splitlines()[-1]) for name, value in row.items()}
    assert found[f"test/{SWEPT[1]}/gold"] == summary["arms"][SWEPT[1]]["splits"]["test"]["gold"]["mean"]
    assert found["verdict"]["_value"] == summary["verdict"]["headline"]
    assert {"arms", "comparisons", "report"} <= found.keys()


@pytest.mark.slow
def test_without_a_tracker_or_stages_there_are_no_runs_of_them(tmp_path: Path) -> None:
    assert tell(tmp_path / "none", tracker=["tracker=none"]).stdout == "[]\n"
    assert not (tmp_path / "none" / "runs" / "demo" / "comparison").exists()
    assert tell(tmp_path / "few", tracker=["tracker.stages=false"]).stdout == "[]\n"
    found = [one.parent.parent.name for one in (tmp_path / "few").rglob("offline-run-*")]
    assert found == ["comparison"]
