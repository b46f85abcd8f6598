"""`rft compare` on real trials: half done, while it runs, with trials that failed or whose records are damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft.store.running import is_running
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, Warm, environment, files_under, rft, study, trial_folder, wait_until

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


@pytest.fixture
def filled(sweep: Sweep, tmp_path: Path) -> Path:
    """A copy of the sweep's store: what is computed here is not there for other tests."""
    shutil.copytree(sweep.store, tmp_path / "store", ignore=shutil.ignore_patterns("locks", "tmp"))
    return tmp_path / "store"


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def folders_of_trials(runs: Path) -> set[Path]:
    """All but those of what the tracker is told of the comparison."""
    return {path for path in runs.rglob("*") if path.is_dir() and runs / "comparison" not in (path, *path.parents)}


@pytest.mark.slow
def test_of_a_study_that_grows_only_what_is_there_is_compared(filled: Path, warm: Warm, tmp_path: Path) -> None:
    arms = {name: OF[name] for name in ("sft", "dpo")}
    where = study(tmp_path / "small", arms=arms)
    assert warm(["compare", str(where), "--strict"], tmp_path, filled).code == 0
    runs = tmp_path / "runs" / "small"
    assert (summary(runs)["incomplete"], summary(runs)["warnings"], summary(runs)["failed"]) == (None, [], [])

    study(where, arms=arms, seeds=[0, 1])
    store, folders = files_under(filled), folders_of_trials(runs)
    outcome = warm(["compare", str(where), "--no-run"], tmp_path, filled)
    assert outcome.code == 0, outcome.stderr
    said = "2 of 4 planned trials have finished; not there: sft seed 1, dpo seed 1"
    assert f"warning: {said}" in outcome.stdout
    assert summary(runs)["warnings"] == [said]
    assert summary(runs)["incomplete"]["missing"] == [{"arm": "sft", "seed": 1}, {"arm": "dpo", "seed": 1}]
    assert summary(runs)["arms"]["dpo"]["seeds"] == [0]
    assert files_under(filled) == store
    assert folders_of_trials(runs) == folders

    before = (runs / "summary.json").read_bytes()
    outcome = warm(["compare", str(where), "--no-run", "--strict"], tmp_path, filled)
    assert outcome.error == f"rft: not compared, by --strict: 0 trials left out, 1 warnings; the first: {said}"
    assert (runs / "summary.json").read_bytes() == before


def test_trials_that_failed_are_reported_and_end_with_a_fault(shared: Path, tmp_path: Path) -> None:
    where = study(tmp_path / "small", arms={"sft": OF["sft"], "far": [*OF["dpo"], "algorithm.lr=1e30"]})
    outcome = rft(["compare", str(where)], tmp_path, shared)
    assert outcome.code == 2
    assert "1 trials did not end well: far seed 0" in outcome.stderr.splitlines()[-1]
    runs = tmp_path / "runs" / "small"
    (failed,) = summary(runs)["failed"]
    assert failed["arm"] == "far"
    assert "at step" in failed["error"]
    assert "arm far is in no number: its only trial is left out" in summary(runs)["warnings"]
    assert failed["error"].split(";")[0] in (runs / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_shared_stages_that_failed_leave_a_report_of_what_was_there(filled: Path, tmp_path: Path) -> None:
    where = study(tmp_path / "small")
    assert rft(["compare", str(where)], tmp_path, filled).code == 0
    (tmp_path / "runs" / "small" / "report.html").unlink()
    study(where, arms={"sft": OF["sft"], "far": [*OF["dpo"], "reward.lr=1e30"]})
    outcome = rft(["compare", str(where)], tmp_path, filled)
    assert outcome.code == 2
    assert "reward_model (far)" in outcome.stderr.splitlines()[-1]
    assert (tmp_path / "runs" / "small" / "report.html").is_file()
    assert summary(tmp_path / "runs" / "small")["incomplete"]["missing"] == [{"arm": "far", "seed": 0}]


@pytest.mark.slow
def test_while_it_runs_elsewhere(filled: Path, warm: Warm, tmp_path: Path) -> None:
    long = [*OF["ppo"], "algorithm.iterations=2000"]
    where = study(tmp_path / "small", arms={"sft": OF["sft"], "long": long}, jobs=1)
    runs = tmp_path / "runs" / "small"
    started = subprocess.Popen(
        [sys.executable, "-m", "rft", "compare", str(where)],
        cwd=tmp_path,
        env=environment(filled),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: any(map(is_running, runs.glob("long-s0-*"))), 120)
        outcome = warm(["compare", str(where), "--no-run"], tmp_path, filled)
        assert outcome.code == 0, outcome.stderr
        assert started.poll() is None
        assert summary(runs)["incomplete"] == {
            "planned": 2, "finished": 1, "running": [{"arm": "long", "seed": 0}], "missing": [],
        }  # fmt: skip
    finally:
        os.kill(started.pid, signal.SIGTERM)
        started.wait(60)
    assert not is_running(trial_folder(tmp_path, "long", study="small"))


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{half", '{"status": "done"}'])
def test_a_damaged_record_is_named_and_the_rest_compared(
    filled: Path, warm: Warm, tmp_path: Path, content: str
) -> None:
    for name in ("sft", "dpo"):
        command = ["run", *OF[name], f"arm={name}", "study=hurt", *Sweep.overrides[3:]]
        assert warm(command, tmp_path, filled).code == 0
    folder = trial_folder(tmp_path, "dpo", study="hurt")
    (folder / "trial.json").write_text(content, encoding="utf-8")
    outcome = warm(["compare", "hurt"], tmp_path, filled)
    assert outcome.code == 0, outcome.stderr
    assert f"left out: {folder.name}: trial.json" in outcome.stdout
    assert "warning: arm dpo is in no number" in outcome.stdout
    refused = warm(["compare", "hurt", "--strict", "--out", "elsewhere"], tmp_path, filled)
    assert refused.error.startswith(
        f"rft: not compared, by --strict: 1 trials left out, 1 warnings; the first: {folder.name}"
    )
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_study_that_is_done_asks_for_nothing_that_its_trials_share(filled: Path, warm: Warm, tmp_path: Path) -> None:
    folder = study(tmp_path / "twice")

    def compared() -> str:
        outcome = warm(["compare", str(folder)], tmp_path, filled)
        assert outcome.code == 0, outcome.stderr
        assert "sft seed 0: done" in outcome.stderr + outcome.stdout
        return outcome.stderr + outcome.stdout

    first, again = compared(), compared()
    shared = ("candidates (sft): done", "reward_model (sft): done")
    assert all(line in first and line not in again for line in shared)
    # Where a result has gone, its trial is made anew, and before it whatever it is made from.
    (record,) = [
        json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("runs/twice/sft-s0-*/trial.json")
    ]
    shutil.rmtree(filled / "evaluation" / record["evaluation"][:16])
    last = compared()
    assert all(line in last for line in shared)


@pytest.mark.slow
def test_two_real_studies_share_their_control(filled: Path, warm: Warm, tmp_path: Path) -> None:
    for study_name, name in (("one", "sft"), ("one", "ppo"), ("two", "sft"), ("two", "dpo")):
        command = ["run", *OF[name], f"arm={name}", f"study={study_name}", *Sweep.overrides[3:]]
        assert warm(command, tmp_path, filled).code == 0
    outcome = warm(["compare", "one", "two", "--strict"], tmp_path, filled)
    assert outcome.code == 0, outcome.stderr
    both = summary(tmp_path / "runs" / "one+two")
    assert list(both["arms"]) == ["sft", "dpo", "ppo"]
    assert (both["study"], both["control"], both["warnings"]) == ("one + two", "sft", [])
