"""Each tracker keeps exactly the rows that it is told, read back through its own client, and goes on with a run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft.callbacks.trackers.upload import is_uploaded, kept_runs
from rft.config import compose
from rft.errors import UserError
from rft.study.uploads import uploads
from tests.integration.harness import tracked, wait_until
from tests.tracked_run import told
from tests.wandb_server import Server

ROWS = [
    {
        "step": float(4 * i),
        "train/loss": 1 / (i + 3),
        "rollout/kl": 0.1 * i,
        "budget/prompts": 8.0 * i,
        "budget/flops": 7.3e15 * i,
        "time/seconds": 0.123 * i,
    }
    for i in range(1, 8)
]
FINAL = {"eval/test/gold": 0.1 + 0.2}
WANTED = {int(row["step"]): {k: v for k, v in row.items() if k != "step"} for row in ROWS}
WANTED_WITH_FINAL = {**WANTED, 28: {**WANTED[28], **FINAL}}


def installed(*packages: str) -> Any:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")


def by_offline(folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for part in tracked(folder):
        for row in (record["history"]["item"] for record in part if record["type"] == "history"):
            assert row["trainer/global_step"] == row["_step"]
            own = {k: v for k, v in row.items() if not k.startswith(("_", "trainer/"))}
            found[row["_step"]] = found.get(row["_step"], {}) | own
    return found


def by_tensorboard(folder: Path) -> dict[int, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["tensors"]:
        if "/" in name and not name.endswith("text_summary"):
            for event in events.Tensors(name):
                assert name not in found.get(event.step, {}), "one row twice"
                found.setdefault(event.step, {})[name] = float(tensor_util.make_ndarray(event.tensor_proto))
    return found


def by_mlflow(folder: Path) -> dict[int, dict[str, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "ppo · smollm2 · s0"
    assert run.info.status == "FINISHED"
    assert run.data.params["algorithm.name"] == "ppo"
    found: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        for one in client.get_metric_history(run.info.run_id, name):
            assert name not in found.get(one.step, {}), "one row twice"
            found.setdefault(one.step, {})[name] = one.value
    return found


def by_trackio(folder: Path) -> dict[int, dict[str, float]]:
    code = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "(run,) = trackio.Api().runs('study')\n"
        "assert run.config['algorithm.name'] == 'ppo', run.config\n"
        "print(json.dumps([run.name, S.get_logs('study', run.name, run_id=run.id)]))"
    )
    env = {**os.environ, "TRACKIO_DIR": str(folder.parent / "trackio")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    name, rows = json.loads(done.stdout.splitlines()[-1])
    assert name == "ppo · smollm2 · s0 · 0123abcd"
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        values = {k: v for k, v in row.items() if k not in ("step", "timestamp")}
        assert not set(values) & set(found.get(row["step"], {})), "one row twice"
        found.setdefault(row["step"], {}).update(values)
    return found


READERS = {"offline": by_offline, "tensorboard": by_tensorboard, "mlflow": by_mlflow, "trackio": by_trackio}
TRACKERS = [
    "offline",
    pytest.param("tensorboard", marks=installed("tensorboard")),
    pytest.param("mlflow", marks=[installed("mlflow"), pytest.mark.slow]),
    pytest.param("trackio", marks=installed("trackio")),
]


@pytest.mark.parametrize("name", TRACKERS)
def test_rows_are_read_back_as_they_were_told(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    done = told(folder, [f"tracker={name}"], ROWS, metrics=FINAL)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert READERS[name](folder) == WANTED_WITH_FINAL


@pytest.mark.parametrize(
    "name",
    [
        "offline",
        *(
            pytest.param(name, marks=[installed(name), pytest.mark.slow])
            for name in ("tensorboard", "mlflow", "trackio")
        ),
    ],
)
def test_a_run_that_was_killed_goes_on_with_each_row_once(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    with pytest.raises(subprocess.CalledProcessError):
        told(folder, [f"tracker={name}"], ROWS[:4], end=False)
    if name in ("mlflow", "trackio"):
        assert READERS_OF_UNFINISHED[name](folder), "the first process told something"
    done = told(folder, [f"tracker={name}"], ROWS, metrics=FINAL, resumed=True)
    assert done.stderr == ""
    assert READERS[name](folder) == WANTED_WITH_FINAL


def _exists(pattern: str) -> Any:
    return lambda folder: list(folder.parent.glob(pattern))


READERS_OF_UNFINISHED = {"mlflow": _exists("mlflow.db"), "trackio": _exists("trackio/*.db")}


@installed("tensorboard")
@pytest.mark.slow
def test_several_at_once_with_settings_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    several = ["tracker=several", "tracker.of=[offline,tensorboard]", "tracker.settings={offline:{project:mine}}"]
    assert told(folder, several, ROWS, metrics=FINAL).stderr == ""
    assert by_offline(folder) == by_tensorboard(folder) == WANTED_WITH_FINAL
    (records,) = tracked(folder)
    assert {record["run"]["project"] for record in records if record["type"] == "run"} == {"mine"}


def test_one_run_in_two_modes_is_refused() -> None:
    with pytest.raises(UserError, match=r"^tracker\.of: offline and wandb are the same run in two modes"):
        compose(["algorithm=sft", "tracker=several", "tracker.of=[offline,tensorboard,wandb]"])


def test_what_a_wandb_run_says_of_itself(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    told(folder, ["tracker=offline", "tracker.axis=flops"], ROWS, metrics=FINAL, failed=True)
    (records,) = tracked(folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("study", "policy", "ppo · smollm2 · s0")
    assert run["tags"] == ["ppo", "seed-0"]
    config = {k: v for r in records if r["type"] == "config" for k, v in r["config"]["update"].items()}
    assert config["algorithm"]["name"] == "ppo"
    assert config["made"]["packages"]["wandb"]
    assert config["made"]["machine"]["cores"] >= 1
    if config["made"]["commit"]:
        assert run["git"]["commit"] == config["made"]["commit"]
    defined = [record["metric"] for record in records if record["type"] == "metric"]
    axes = {m["name"]: m["summary"] for m in defined if "name" in m and "summary" in m}
    wanted = ("budget/prompts", "budget/generated_tokens", "budget/flops", "time/seconds", "budget/labels")
    assert {name: axes[name] for name in wanted} == {name: {"max": True} for name in wanted}
    globs = {m["glob_name"]: m.get("step_metric") for m in defined if "glob_name" in m}
    assert globs["train/*"] == globs["rollout/*"] == "budget/flops"
    assert any(record["type"] == "stats" for record in records)
    assert records[-1]["exit"]["exit_code"] == 1
    # All that belongs to it is beside the trial.
    assert {path.name for path in folder.iterdir()} == {"wandb"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.close()


def online(server: Server) -> dict[str, str]:
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}


@pytest.mark.parametrize(
    "fault", ["refuse", "401", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("hang", "500", "drop"))]
)
def test_a_server_that_fails_from_the_start_leaves_the_run_offline(fault: str, server: Server, tmp_path: Path) -> None:
    server.fail(fault)
    folder = tmp_path / "trial"
    done = told(folder, ["tracker=wandb"], ROWS, environment=online(server), metrics=FINAL)
    assert json.loads(done.stdout)["rows"] < 5, "training waits for no server"
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracker: W&B: ")
    assert "the run goes on offline" in line
    assert by_offline(folder) == WANTED_WITH_FINAL
    assert len(list(folder.glob("wandb/offline-run-*"))) == len(list(folder.glob("wandb/*run-2*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "refuse", "500"])
def test_a_server_that_dies_in_the_middle_costs_no_row(fault: str, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    rows = [{**ROWS[0], "step": float(step)} for step in range(200)]
    dies = threading.Thread(
        target=lambda: (wait_until(lambda: "stream" in str(server.asked()), 200), server.fail(fault))
    )
    dies.start()
    done = told(folder, ["tracker=wandb"], rows, environment=online(server), metrics=FINAL, pause=0.1)
    dies.join()
    waited = json.loads(done.stdout)
    assert waited["rows"] < 200 * 0.1 + 5 + 20, "the pauses, the patience, and a machine with much to do"
    assert by_offline(folder).keys() == set(range(200))
    assert by_offline(folder)[199] == {k: v for k, v in rows[199].items() if k != "step"} | FINAL
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tracker: W&B: {server.url} ")
    assert "the run is whole in" in line


def test_what_w_and_b_gets_online_is_what_was_told_and_a_run_goes_on(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    done = told(folder, ["tracker=wandb"], ROWS, environment=online(server), metrics=FINAL)
    assert done.stderr == ""
    assert server.steps() == [row["step"] for row in ROWS]
    assert by_offline(folder) == WANTED_WITH_FINAL


def test_a_server_that_wandb_login_was_told_of_is_found(server: Server, tmp_path: Path) -> None:
    own = tmp_path / ".config" / "wandb" / "settings"
    own.parent.mkdir(parents=True)
    own.write_text(f"[default]\nbase_url = {server.url}\n", encoding="utf-8")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # should another one be asked
    home = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "no_proxy": "127.0.0.1"}
    folder = tmp_path / "trial"
    assert told(folder, ["tracker=wandb"], ROWS, environment=home | nowhere, metrics=FINAL).stderr == ""
    assert server.steps() == [row["step"] for row in ROWS]


def end_service(mark: str) -> None:
    """SIGKILL to W&B's process beside the one that has a mark in its environment."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            mine = mark.encode() in (place / "environ").read_bytes()
            if mine and b"wandb-core" in (place / "cmdline").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.slow
def test_a_run_whose_process_at_w_and_b_dies_is_begun_again_offline(server: Server, tmp_path: Path) -> None:
    folder, mark = tmp_path / "trial", f"OF_THIS_TEST={tmp_path}"
    rows = [{**ROWS[0], "step": float(step)} for step in range(100)]
    dies = threading.Thread(
        target=lambda: (wait_until(lambda: "stream" in str(server.asked()), 200), end_service(mark))
    )
    dies.start()
    own = {**online(server), mark.partition("=")[0]: str(tmp_path)}
    done = told(folder, ["tracker=wandb"], rows, environment=own, metrics=FINAL, pause=0.1)
    dies.join()
    (line,) = done.stderr.splitlines()
    assert "the run goes on offline" in line
    (offline,) = (part for part in tracked(folder) if part and part[-1]["type"] == "exit")
    kept = [record["history"]["item"] for record in offline if record["type"] == "history"]
    assert [row["_step"] for row in kept] == list(range(100))
    assert kept[-1]["eval/test/gold"] == FINAL["eval/test/gold"]


def test_a_run_that_goes_on_online_tells_what_the_server_lacks(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "trial-s0-01234567"
    told(folder, ["tracker=wandb"], ROWS[:4], environment=online(server))
    assert server.steps() == [row["step"] for row in ROWS[:4]]
    server.resumes()
    done = told(folder, ["tracker=wandb"], ROWS, environment=online(server), metrics=FINAL, resumed=True)
    assert done.stderr == ""
    assert server.steps() == [row["step"] for row in ROWS], "each row once"
    assert server.rows()[-1]["eval/test/gold"] == FINAL["eval/test/gold"]


@pytest.mark.slow
def test_what_a_killed_online_run_may_not_have_sent_is_known(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "trial-s0-01234567"
    with pytest.raises(subprocess.CalledProcessError):
        told(folder, ["tracker=wandb"], ROWS[:4], environment=online(server), end=False)
    (part,) = kept_runs(folder / "wandb")
    assert not is_uploaded(part)
    done = told(folder, ["tracker=wandb"], ROWS, environment=online(server), metrics=FINAL, resumed=True)
    assert done.stderr == ""
    (run,) = uploads([folder.parent])
    assert run.waiting == (), "the second part has all that the first has"


def test_without_an_account_a_run_goes_on_offline(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    nobody = {**online(server), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none"), "HOME": str(tmp_path)}
    (line,) = told(folder, ["tracker=wandb"], ROWS, environment=nobody, metrics=FINAL).stderr.splitlines()
    assert "there is no key for" in line
    assert by_offline(folder) == WANTED_WITH_FINAL
