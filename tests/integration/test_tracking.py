"""A trial's W&B run: beside the trial, whole, one for each, and nothing contacted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Outcome, Result, Warm, files_under, tracked, trial_folder
from tests.wandb_server import Server

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("trials"), pytest.mark.timeout(900)]


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
