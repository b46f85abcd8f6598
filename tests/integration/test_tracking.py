"""A trial's W&B run: beside the trial, whole, one for each, and nothing contacted."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from rft.data.offline import read_table
from tests.integration.conftest import Sweep
from tests.integration.harness import (
    OF,
    REPOSITORY,
    TINY,
    Outcome,
    Result,
    Warm,
    files_under,
    rft,
    tracked,
    trial_folder,
    wait_until,
)
from tests.wandb_server import Server

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]


ON_POLICY = ("ppo", "rlaif")
SHOWN = ("prompt_id", "prompt", "response", "gold", "proxy", "kl", "length", "truncated")


def rows_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_the_samples_are_rows_of_the_evaluation_beside_what_the_sft_policy_says(sweep: Sweep) -> None:
    answers = {}
    for name, trial in sweep.trials.items():
        (records,) = tracked(trial.folder)
        last, stored = rows_of(records)[-1], read_table(trial.folder / "evaluation.parquet")
        files = next(trial.folder.glob("wandb/offline-run-*")) / "files"
        for split in ("test", "ood"):
            table = json.loads((files / last[f"samples_{split}.path"]).read_text(encoding="utf-8"))
            wanted = [row for row in stored if row["split"] == split]
            shown = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
            assert len(shown) == len(wanted) > 1, "fewer prompts than would be shown"
            for row, one in zip(shown, wanted, strict=True):
                assert {key: row[key] for key in SHOWN} == {key: one[key] for key in SHOWN}
                answers.setdefault((split, row["prompt_id"]), set()).add(row["sft_response"])
                if name == "sft":
                    assert row["sft_response"] == row["response"], "it is the SFT policy"
        points = trial.entry("evaluation") / "checkpoints.parquet"
        assert ("samples_training.path" in last) == points.exists()
        if points.exists():
            table = json.loads((files / last["samples_training.path"]).read_text(encoding="utf-8"))
            shown = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
            kept = ("step", "split", "prompt_id", "gold", "proxy", "kl", "length", "truncated")
            wanted = read_table(points)
            assert [[row[key] for key in kept] for row in shown] == [[row[key] for key in kept] for row in wanted]
            assert all(row["prompt"] and row["sft_response"] is not None for row in shown)
    assert {len(texts) for texts in answers.values()} == {1}, "the same of every trial"


def test_artifacts_lead_from_what_a_policy_is_made_of_to_its_evaluation(untouched: Sweep) -> None:
    for name, trial in untouched.trials.items():
        (records,) = tracked(trial.folder)
        told = [record["artifact"] for record in records if record["type"] == "artifact"]
        used = {one["name"]: one for one in told if one.get("use_after_commit")}
        made = {one["type"]: one for one in told if not one.get("use_after_commit") and one["type"] != "run_table"}
        wanted = {"sft": {"sft"}, "dpo": {"sft", "candidates", "preferences"}}
        assert used.keys() == wanted.get(name, {"sft", "prompts", "reward_model"})
        assert made.keys() == {"policy", "evaluation"}
        stages = {**{"questions" if one == "prompts" else one: used[one] for one in used}, **made}
        for stage, artifact in stages.items():
            entry = trial.entry(stage)
            about = json.loads(artifact["metadata"])
            assert (about["key"], about["digest"]) == tuple(trial.record["stages"][stage][k] for k in ("key", "digest"))
            assert about["key"][:16] in artifact["aliases"]
            assert artifact["manifest"]["contents"]
            for file in artifact["manifest"]["contents"]:
                content = (entry / file["path"]).read_bytes()
                assert base64.b64decode(file["digest"]) == hashlib.md5(content).digest()
                assert about["sha256"][file["path"]] == hashlib.sha256(content).hexdigest()
                assert Path(file["local_path"]).read_bytes() == content
                assert Path(file["local_path"]).is_relative_to(trial.folder.absolute())


def test_histograms_count_what_the_metrics_are_means_of(sweep: Sweep) -> None:
    for name, trial in sweep.trials.items():
        (records,) = tracked(trial.folder)
        rows = [row for row in rows_of(records) if "train/loss" in row]
        seen = {key.split(".")[0] for row in rows for key in row if key.startswith("distribution/")}
        parts = ("reward", "length", "kl", "advantage", "ratio") if name in ON_POLICY else ()
        assert seen == {f"distribution/{part}" for part in parts}
        for row in rows if parts else ():
            for part, metric in {part: f"rollout/{part}" for part in parts[:3]}.items() | {("ratio", "train/ratio")}:
                counts, edges = row[f"distribution/{part}.values"], row[f"distribution/{part}.bins"]
                middles = [(low + high) / 2 for low, high in pairwise(edges)]
                mean = sum(n * x for n, x in zip(counts, middles, strict=True)) / sum(counts)
                assert mean == pytest.approx(row[metric], abs=edges[1] - edges[0] + 1e-6)
            tokens, passes = sum(row["distribution/advantage.values"]), trial.record["config"]["algorithm"]["epochs"]
            assert sum(row["distribution/ratio.values"]) == passes * tokens


def test_what_is_shown_changes_no_result(sweep: Sweep, shared: Path, warm: Warm, tmp_path: Path) -> None:
    outcome = warm(["run", "algorithm=ppo", "seed=0", "tracker=none", "arm=blind", *TINY], tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    trial = Result(trial_folder(tmp_path, "blind"), shared)
    assert {"policy", "evaluation"} <= trial.computed
    assert trial.digests == sweep.trials["ppo"].digests
    assert not (trial.folder / "samples.json").exists()


def test_as_much_is_shown_as_is_asked_for(shared: Path, warm: Warm, tmp_path: Path) -> None:
    few = ("tracker.samples=2", "tracker.histograms=2", "tracker.artifact_mb=0.01")
    outcome = warm(["run", *OF["ppo"], "seed=0", "arm=few", *few, *TINY], tmp_path, shared)
    assert (outcome.code, outcome.stderr) == (0, "")
    trial = Result(trial_folder(tmp_path, "few"), shared)
    (records,) = tracked(trial.folder)
    rows = rows_of(records)
    assert [rows[-1][f"samples_{name}.nrows"] for name in ("test", "ood", "training")] == [2, 2, 2 * 3]
    assert ["distribution/ratio.values" in row for row in rows] == [True, False, True], "of three, every second"
    assert ["distribution/reward.values" in row for row in rows] == [True, False, True]
    entries = [e for r in records if r["type"] == "artifact" for e in r["artifact"]["manifest"]["contents"]]
    references = {entry["path"]: entry["ref"] for entry in entries if "ref" in entry}
    assert {"model.safetensors", "reward.safetensors", "policy.safetensors"} <= references.keys()
    place = Path(unquote(urlsplit(references["policy.safetensors"]).path))
    assert place == (trial.entry("policy") / "policy.safetensors").absolute()


def test_each_trial_has_one_run_in_the_group_of_its_study(sweep: Sweep) -> None:
    names = set()
    for name, trial in sweep.trials.items():
        (records,) = tracked(trial.folder)
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert (run["run_group"], run["project"], run["job_type"]) == ("sweep", "rft", "policy")
        assert "seed-0" in run["tags"]
        names.add(run["display_name"])
        config = {k: v for r in records if r["type"] == "config" for k, v in r["config"]["update"].items()}
        assert run["display_name"].endswith(" · tiny · s0")
        assert {f"algorithm-{name}", "model-tiny"} <= set(run["tags"])
        assert config["algorithm"]["name"] == name
        assert (config["seed"], config["task"]["test_prompts"]) == (0, 6)
        assert records[-1]["exit"]["exit_code"] == 0
    assert len(names) == len(sweep.trials)


def test_the_run_has_the_history_and_the_evaluation_of_the_trial_once(sweep: Sweep) -> None:
    for trial in sweep.trials.values():
        (records,) = tracked(trial.folder)
        rows = [record["history"]["item"] for record in records if record["type"] == "history"]
        assert [row for row in rows if "eval/test/gold" in row] == rows[-1:]
        assert {name: rows[-1][name] for name in trial.record["metrics"]} == trial.record["metrics"]
        trained = [row for row in rows if "train/loss" in row]
        assert len(rows) == max(len(trained), 1)
        for row, stored in zip(trained, trial.history(), strict=True):
            assert row["trainer/global_step"] == stored["step"]
            assert {k: row[k] for k in stored if k != "step"} == {k: v for k, v in stored.items() if k != "step"}
            assert row["time/seconds"] > 0


class Listener:
    """A proxy that answers nobody and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


def test_nothing_is_contacted(sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    proxy = Listener()
    ways = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = {**dict.fromkeys(ways, proxy.url), **{way.lower(): proxy.url for way in ways}}
    # The surroundings of the tests forbid contact; here only what rft itself says counts.
    own = dict.fromkeys(("WANDB_MODE", "WANDB_ERROR_REPORTING", "HF_HUB_OFFLINE", "NO_PROXY", "no_proxy"), None)
    command = ["run", "algorithm=dpo", "seed=7", "arm=quiet", *TINY]
    outcome = warm(command, tmp_path, sweep.store, **own, **proxies)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert len(tracked(trial_folder(tmp_path, "quiet", 7))) == 1
    assert proxy.asked == 0
    socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))).close()
    proxy.close()


def test_without_a_tracker_there_is_no_run(sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    outcome = warm(["run", "algorithm=dpo", "seed=8", "tracker=none", "arm=none", *TINY], tmp_path, sweep.store)
    assert outcome.code == 0, outcome.stderr
    trial = Result(trial_folder(tmp_path, "none", 8), sweep.store)
    assert trial.history()
    assert not list(tmp_path.rglob("*wandb*"))


KEY = "canary" + "0" * 34


@pytest.mark.slow
def test_changes_of_rft_that_no_commit_has_are_kept_beside_the_run(shared: Path, tmp_path: Path) -> None:
    clone, cwd = tmp_path / "clone", tmp_path / "cwd"
    subprocess.run(["git", "clone", "-q", REPOSITORY, clone], check=True)
    readme = clone / "README.md"
    readme.write_text(
        f"{readme.read_text(encoding='utf-8')}A line that no commit has, with {KEY} in it.\n", encoding="utf-8"
    )
    cwd.mkdir()
    outcome = rft(["run", "algorithm=sft", "arm=sft", *TINY], cwd, shared, PYTHONPATH=str(clone), WANDB_API_KEY=KEY)
    assert outcome.code == 0, outcome.stderr
    (patch,) = trial_folder(cwd, "sft").glob("wandb/offline-run-*/files/diff.patch")
    text = patch.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("+A line")] == [
        "+A line that no commit has, with … in it."
    ]
    assert KEY not in written(cwd, outcome)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.close()


def online(server: Server, **more: str) -> dict[str, str]:
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, **more}


def written(folder: Path, outcome: Outcome) -> str:
    """All that a run left, files and streams, as one text."""
    files = [(folder / name).read_bytes().decode("latin-1") for name in sorted(files_under(folder, but=("server",)))]
    return "\n".join([*files, outcome.stdout, outcome.stderr])


def assert_whole(folder: Path, store: Path) -> None:
    """All rows of the history are in the tracked run on this machine, and none other."""
    (records,) = tracked(folder)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    stored = Result(folder, store).history()
    assert [row["_step"] for row in rows] == [row["step"] for row in stored]
    for row, one in zip(rows, stored, strict=True):
        assert {k: row[k] for k in one if k != "step"} == {k: v for k, v in one.items() if k != "step"}
    assert "eval/test/gold" in rows[-1]
    assert records[-1]["exit"]["exit_code"] == 0


def test_an_online_run_is_uploaded_and_its_key_stands_nowhere(
    sweep: Sweep, warm: Warm, server: Server, tmp_path: Path
) -> None:
    command = ["run", *OF["dpo"], "seed=11", "tracker=wandb", "arm=online", *TINY]
    secret = "another-canary-in-the-environment"
    outcome = warm(command, tmp_path, sweep.store, **online(server, MY_API_KEY=secret))
    assert (outcome.code, outcome.stderr) == (0, "")
    folder = trial_folder(tmp_path, "online", 11)
    assert_whole(folder, sweep.store)
    assert server.steps() == [row["step"] for row in Result(folder, sweep.store).history()]
    everything = written(tmp_path, outcome)
    assert "online" in everything
    for part in (KEY, KEY[::-1], "canary0", secret):
        assert part not in everything
    refused = warm([*command, f"study={secret}"], tmp_path, sweep.store, **online(server, MY_API_KEY=secret))
    assert refused.error.startswith("rft: study: holds a key or a password")
    assert secret not in written(tmp_path, refused)


@pytest.mark.slow
def test_the_keys_of_a_multirun_of_which_one_arm_fails_stand_in_no_tracker(
    sweep: Sweep, warm: Warm, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    trackers = ("tracker=several", "tracker.of=[offline,tensorboard,mlflow]")
    judge = ("judge=openai", "judge.model=any", "judge.base_url=http://127.0.0.1:9/v1", "judge.patience=0")
    secrets = {"OPENAI_API_KEY": "sk-canary-of-a-judge-0123456789", "WANDB_API_KEY": KEY, "HF_TOKEN": "hf_canary4567"}
    command = ["run", "-m", "algorithm=dpo,rlaif", "seed=12", "study=keys", *TINY, *trackers, *judge]
    outcome = warm(command, tmp_path, sweep.store, **secrets)
    assert outcome.code != 0
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("trial.json")]
    assert {one["algorithm"]: one["status"] for one in records} == {"dpo": "done", "rlaif": "failed"}
    assert list(tmp_path.rglob("*.wandb"))
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert list(tmp_path.rglob("mlflow.db"))
    everything = written(tmp_path, outcome)
    assert [one for secret in secrets.values() for one in (secret, secret[::-1]) if one in everything] == []


@pytest.mark.slow
def test_a_run_under_an_agent_keeps_the_settings_that_the_sweep_locks(shared: Path, warm: Warm, tmp_path: Path) -> None:
    """As W&B's agent starts it: what is swept is in a file, and the run's name is given."""
    swept = tmp_path / "sweep.yaml"
    swept.write_text("wandb_version: 1\nalgorithm: {value: dpo}\nseed: {value: 0}\nalgorithm.beta: {value: 0.25}\n")
    agent = {"WANDB_SWEEP_ID": "k2a9p0", "WANDB_SWEEP_PARAM_PATH": str(swept), "WANDB_RUN_ID": "given01"}
    command = ["run", *OF["dpo"], "algorithm.beta=0.25", "seed=0", "arm=swept", *TINY]
    outcome = warm(command, tmp_path, shared, **agent)
    assert (outcome.code, outcome.stderr) == (0, "")
    trial = Result(trial_folder(tmp_path, "swept"), shared)
    (records,) = tracked(trial.folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_id"], run["sweep_id"]) == ("given01", "k2a9p0")
    config = {k: v for r in records if r["type"] == "config" for k, v in r["config"]["update"].items()}
    given = run["config"]["update"]
    assert (given["algorithm"], given["seed"], given["algorithm.beta"]) == ("dpo", 0, 0.25)
    assert config["resolved"]["algorithm"]["beta"] == 0.25
    assert config["resolved"]["algorithm"] == trial.record["config"]["algorithm"]
    assert config["task"] == trial.record["config"]["task"]


@pytest.mark.slow
def test_a_trial_whose_results_are_there_has_a_run_in_its_study_all_the_same(
    sweep: Sweep, warm: Warm, tmp_path: Path
) -> None:
    command = ["run", "algorithm=ppo", "seed=0", "study=again", "arm=ppo", *TINY]
    for _ in range(2):  # the second time it has been told
        outcome = warm(command, tmp_path, sweep.store)
        assert (outcome.code, outcome.stderr) == (0, "")
        trial = Result(trial_folder(tmp_path, "ppo", study="again"), sweep.store)
        assert trial.computed == set()
        (records,) = tracked(trial.folder)
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert run["run_group"] == "again"
        (wanted,) = tracked(sweep.trials["ppo"].folder)
        losses = [[row["train/loss"] for row in rows_of(of) if "train/loss" in row] for of in (records, wanted)]
        assert losses[0] == losses[1] != []
        made = [r["artifact"]["type"] for r in records if r["type"] == "artifact"]
        assert {"policy", "evaluation", "reward_model"} <= set(made)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "early"), [("hang", False), ("drop", False), ("refuse", True), ("500", True)])
def test_a_real_trial_ends_in_time_with_all_of_it_here_whatever_the_server_does(
    fault: str, early: bool, server: Server, shared: Path, tmp_path: Path
) -> None:
    def fail_once_rows_arrive() -> None:
        wait_until(lambda: "stream" in str(server.asked()), 200)
        server.fail(fault)

    fails = threading.Thread(target=(lambda: server.fail(fault)) if early else fail_once_rows_arrive)
    fails.start()
    if early:
        fails.join()
    command = ["run", *OF["ppo"], "algorithm.iterations=60", "tracker=wandb", "arm=online", *TINY]
    begun = time.monotonic()
    outcome = rft(command, tmp_path, shared, **online(server))
    taken = time.monotonic() - begun
    fails.join()
    assert outcome.code == 0, outcome.stderr
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("tracker: W&B: ")
    trial = Result(trial_folder(tmp_path, "online"), shared)
    # Beside its stages a process has its start, and at the end two limits of the tracker, on a machine with much to do.
    assert taken < trial.seconds("policy") + trial.seconds("evaluation") + 90
    (records,) = tracked(trial.folder)
    rows = [row for row in rows_of(records) if "train/loss" in row]
    assert [row["trainer/global_step"] for row in rows] == [row["step"] for row in trial.history()]
    assert len(rows) == 60
    assert rows_of(records)[-1]["eval/test/gold"] == trial.record["metrics"]["eval/test/gold"]
    made = [record["artifact"]["type"] for record in records if record["type"] == "artifact"]
    assert {"policy", "evaluation", "model", "run_table"} <= set(made)
    if fault != "refuse":
        server.fail("")
        synced = rft(["sync", "scratch"], tmp_path, shared, **online(server))
        assert synced.code == 0, synced.stderr
        assert sorted(set(server.steps())) == [row["step"] for row in trial.history()]
        told = [record["artifact"] for record in records if record["type"] == "artifact"]
        assert all(server.files(f"{one['name']}:{one['digest']}") for one in told)
