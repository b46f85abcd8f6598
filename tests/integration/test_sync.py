"""``rft sync``: what was kept offline arrives in order, once, whatever breaks off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.harness import Outcome, environment, rft, tracked, wait_until
from tests.told_study import tell
from tests.tracked_run import told
from tests.wandb_server import Server

KEY = "canary" + "0" * 34
ROWS = [{"step": step, "train/loss": 1.0 / step} for step in (1, 2, 3)]
ORDER = ["questions", "sft", "candidates", "preferences", "reward_model", "policy", "comparison"]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was moved: of its one tracked trial two parts, the first without an end."""
    root, home = tmp_path_factory.mktemp("made") / "there", tmp_path_factory.mktemp("kept") / "here"
    tell(root)
    trial = root / "runs" / "demo" / "ppo-s0-0123abcd"
    told(trial, ["model=tiny"], ROWS[:2])
    (first,) = trial.glob("wandb/offline-run-*/run-*.wandb")
    first.write_bytes(first.read_bytes()[:-40])  # as of a process that was killed
    told(trial, ["model=tiny"], ROWS, resumed=True, metrics={"eval/test/gold": 0.5})
    root.rename(home)
    return home


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.close()


def sync(root: Path, server: str, *options: str, key: str | None = KEY, study: str = "demo") -> Outcome:
    home = {"HOME": str(root), "NETRC": str(root / "none")}
    return rft(["sync", study, *options], root, root / "store", WANDB_BASE_URL=server, WANDB_API_KEY=key, **home)


def test_without_a_key_or_a_server_nothing_is_uploaded(kept: Path, server: Server) -> None:
    listed = sync(kept, server.url, "--dry-run", key=None)
    assert listed.code == 0, listed.stderr
    assert "7 of 7 runs to upload" in listed.stdout
    assert f"no key for {server.url}" in sync(kept, server.url, key=None).error
    assert server.asked() == []
    server.close()
    assert "cannot be reached" in sync(kept, server.url).error
    assert sync(kept, "nonsense").error.startswith("rft: WANDB_BASE_URL=nonsense: W&B does not take its settings: ")
    assert not list(kept.rglob("*.synced"))


@pytest.mark.slow
def test_all_arrives_in_order_and_once_though_broken_off(kept: Path, server: Server) -> None:
    own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(kept)}
    command = [sys.executable, "-m", "rft", "sync", "demo"]
    env = environment(kept / "store", **own)
    first = subprocess.Popen(
        command,
        cwd=kept,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while first.poll() is None and len(list(kept.rglob("*.synced"))) < 2:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=60)
    assert "of 7 runs are uploaded; rft sync goes on with the others" in said
    assert first.returncode not in (0, 2)
    done = list(kept.rglob("*.synced"))
    before = len(server.told())
    assert 2 <= len(done) < 8
    outcome = sync(kept, server.url)
    assert outcome.code == 0, outcome.stderr
    uploaded = [words[2] for words in server.told()[before:] if words[0] == "run"]
    assert len(list(dict.fromkeys(uploaded))) == 7 - len(done)
    runs = [words[2] for words in server.told() if words[0] == "run"]
    assert list(dict.fromkeys(runs)) == ORDER
    assert len(list(kept.rglob("*.synced"))) == 8
    assert sorted(set(server.steps())) == [0.0, 1.0, 2.0, 3.0]
    made, used = ({words[1] for words in server.told() if words[0] == kind} for kind in ("made", "used"))
    assert {one.partition(":")[0] for one in made} >= {"prompts", "sft", "candidates", "preferences", "report-demo"}
    assert {one for one in used if not one.startswith("evaluation")} <= made
    assert_all_files_arrived(server, [path.parent for path in kept.rglob("wandb") if any(path.glob("offline-run-*"))])
    assert "all 7 runs are uploaded" in sync(kept, server.url).stdout
    assert KEY not in outcome.stdout + outcome.stderr


def assert_all_files_arrived(server: Server, folders: Sequence[Path]) -> None:
    """Of each artifact in the runs in some folders."""
    told = [
        one["artifact"] for folder in folders for run in tracked(folder) for one in run if one["type"] == "artifact"
    ]
    assert told
    for artifact in told:
        copied = {one["path"]: one["digest"] for one in artifact["manifest"]["contents"] if "ref" not in one}
        assert server.files(f"{artifact['name']}:{artifact['digest']}") == copied


@pytest.mark.slow
def test_a_run_whose_server_died_in_the_middle_arrives_whole(server: Server, tmp_path: Path) -> None:
    study = tmp_path / "runs" / "online"
    rows = [{"step": step, "train/loss": 0.5} for step in range(80)]
    own = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    policy = {"name": "policy", "kind": "policy", "key": "0" * 64, "files": {"weights": str(tmp_path / "weights")}}
    dies = threading.Thread(
        target=lambda: (wait_until(lambda: "stream" in str(server.asked()), 200), server.fail("drop"))
    )
    dies.start()
    done = told(
        study / "ppo-s0-0123abcd", ["model=tiny", "tracker=wandb"], rows, environment=own, pause=0.1, makes=[policy]
    )
    dies.join()
    assert "`rft sync` uploads it" in done.stderr
    server.fail("")
    (study / "planned.json").write_text("{}")
    outcome = sync(tmp_path, server.url, study="online")
    assert outcome.code == 0, outcome.stderr
    assert sorted(set(server.steps())) == list(range(80))
    assert_all_files_arrived(server, [study / "ppo-s0-0123abcd"])
    assert "all 1 runs are uploaded" in sync(tmp_path, server.url, study="online").stdout


@pytest.mark.slow
def test_a_run_that_cannot_be_read_holds_no_other_back(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "three"
    for seed in range(3):
        told(folder / f"ppo-s{seed}-0123abc{seed}", ["model=tiny"], ROWS)
    (folder / "planned.json").write_text("{}")
    (damaged,) = folder.glob("ppo-s1-*/wandb/offline-run-*/run-*.wandb")
    damaged.write_bytes(b"none of W&B's" * 20)
    outcome = sync(tmp_path, server.url, study="three")
    assert "2 of 3 runs are uploaded; not " in outcome.error
    assert damaged.parent.name in outcome.error or "s1" in outcome.error
    assert len(list(folder.rglob("*.synced"))) == 2
    assert server.steps() == [1.0, 2.0, 3.0] * 2
