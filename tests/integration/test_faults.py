"""Faults of disks and files: named in one line, nothing lost, and the same bits when the work goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rft.checkpoint import kept
from tests.disks import clock, fill, mounted, read_only
from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import TINY, Result, Warm, rft, wait_until
from tests.integration.kills import Trial, assert_same, trial_of

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

COMMAND = [
    "run",
    "algorithm=ppo",
    "algorithm.iterations=6",
    "algorithm.prompts_per_iteration=8",
    "algorithm.minibatches=2",
    "arm=faults",
    "evaluation.checkpoints=2",
    *TINY,
]
UNTRACKED = [*COMMAND, "tracker=none"]


@pytest.fixture(scope="module")
def whole(sweep: Sweep, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What the trial comes to without faults."""
    cwd = tmp_path_factory.mktemp("whole")
    trial = Trial(UNTRACKED, cwd, without_policies(sweep.store, cwd / "store"))
    assert warm(trial.command, trial.cwd, trial.store).code == 0
    return trial.result


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    with ExitStack() as stack:
        yield lambda name, size: stack.enter_context(mounted(tmp_path / name, size))


def killed_with_checkpoints(trial: Trial, warm: Warm, count: int) -> list[Path]:
    """Kill a trial that has begun to learn; returns its checkpoints, the furthest first."""

    def found() -> list[Path]:
        folder = trial_of(trial.cwd)
        return [one.path for path in folder.glob("checkpoints/*") for one in kept(path)] if folder else []

    warm.start(trial.command, trial.cwd, trial.store)
    wait_until(lambda: len(found()) >= count)
    warm.kill()
    assert warm.wait().code < 0
    return found()


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "damaged checkpoint" in line]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
}


class TestCheckpoints:
    @pytest.fixture
    def trial(self, shared: Path, tmp_path: Path) -> Trial:
        return Trial(UNTRACKED, tmp_path / "runs-here", shared)

    @pytest.mark.parametrize(
        "damage", [pytest.param(how, marks=[pytest.mark.slow] * (how != "flipped")) for how in DAMAGE]
    )
    def test_the_one_before_a_damaged_one_is_taken(self, trial: Trial, warm: Warm, whole: Result, damage: str) -> None:
        last, before = killed_with_checkpoints(trial, warm, 2)
        DAMAGE[damage](last)
        outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        (line,) = warnings(outcome.stdout + outcome.stderr)
        assert f"{last.name} does not match the sha256 in its name; training goes on from {before.name}" in line
        assert_same(trial.result, whole)

    def test_without_a_good_one_training_begins_anew(self, trial: Trial, warm: Warm, whole: Result) -> None:
        files = killed_with_checkpoints(trial, warm, 2)
        for file in files:
            os.truncate(file, 100)
        outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        (line,) = warnings(outcome.stdout + outcome.stderr)
        assert line.endswith("training begins anew")
        assert all(file.name in line for file in files)
        assert_same(trial.result, whole)

    @pytest.mark.parametrize("harm", [flip, pytest.param(Path.unlink, marks=pytest.mark.slow)], ids=["flipped", "gone"])
    def test_a_damaged_snapshot_is_made_again(
        self, trial: Trial, warm: Warm, whole: Result, harm: Callable[[Path], object]
    ) -> None:
        def taken() -> list[Path]:
            return list(trial.cwd.rglob("policy-*.safetensors"))

        warm.start(trial.command, trial.cwd, trial.store)
        wait_until(lambda: taken() and len(list(trial.cwd.rglob("step-*.ckpt"))) == 2)
        time.sleep(0.1)
        warm.kill()
        assert warm.wait().code < 0
        (snapshot, *_) = taken()
        harm(snapshot)
        outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        assert all(snapshot.name in line for line in warnings(outcome.stdout + outcome.stderr))
        assert_same(trial.result, whole)

    def test_a_clock_that_was_set_back_decides_nothing(self, trial: Trial, warm: Warm, whole: Result) -> None:
        files = killed_with_checkpoints(trial, warm, 2)
        # All of it was made in years to come, what was made first the latest.
        now = time.time() + 10 * 365 * 86400
        for root in (trial.cwd, trial.store):
            for path in [root, *root.rglob("*")]:
                os.utime(path, (now, now), follow_symlinks=False)
        os.utime(files[1], (2 * now, 2 * now))
        warm.start(trial.command, trial.cwd, trial.store)
        first = {file.name for file in files}
        seen: set[str] = set()
        while warm.running:
            seen |= {path.name for path in trial.cwd.rglob("step-*.ckpt")} - first
            time.sleep(0.005)
        assert warm.wait().code == 0
        assert min(seen) > files[0].name  # it went on from the furthest
        assert_same(trial.result, whole)


@pytest.mark.slow
def test_a_clock_that_jumps_back_while_a_trial_is_away(shared: Path, warm: Warm, whole: Result, tmp_path: Path) -> None:
    trial = Trial(UNTRACKED, tmp_path / "here", shared)
    killed_with_checkpoints(trial, warm, 1)
    outcome = rft(trial.command, trial.cwd, trial.store, **clock(tmp_path, -400 * 86400))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_same(trial.result, whole)


class TestStore:
    def test_read_only_with_all_there_is_read(self, warm: Warm, whole: Result, tmp_path: Path) -> None:
        trial = Trial(UNTRACKED, tmp_path / "here", shutil.copytree(whole.store, tmp_path / "store"))
        with read_only(trial.store):
            outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        assert trial.result.computed == set()
        assert trial.result.digests == whole.digests

    def test_read_only_from_the_start(self, shared: Path, warm: Warm, whole: Result, tmp_path: Path) -> None:
        trial = Trial(UNTRACKED, tmp_path / "here", shared)
        with read_only(trial.store):
            line = warm(trial.command, trial.cwd, trial.store).error
        assert f"the store {trial.store} cannot be written" in line
        assert "Read-only file system" in line
        assert warm(trial.command, trial.cwd, trial.store).code == 0
        assert_same(trial.result, whole)

    def test_becomes_read_only_while_a_policy_is_trained(
        self, shared: Path, warm: Warm, whole: Result, tmp_path: Path
    ) -> None:
        trial = Trial(UNTRACKED, tmp_path / "here", shared)
        warm.start(trial.command, trial.cwd, trial.store)
        wait_until(lambda: list(trial.cwd.rglob("step-*.ckpt")))
        with read_only(trial.store):
            line = warm.wait().error
        assert "stage 'policy' could not be written" in line
        assert "Read-only file system" in line
        assert "RFT_STORE" in line
        assert list(trial.cwd.rglob("step-*.ckpt"))  # nothing of the training is lost
        assert warm(trial.command, trial.cwd, trial.store).code == 0
        assert_same(trial.result, whole)

    def test_becomes_full_while_a_policy_is_trained(
        self, mount: Callable[[str, int], Path], warm: Warm, sweep: Sweep, whole: Result, tmp_path: Path
    ) -> None:
        disk = mount("disk", 96 << 20)
        trial = Trial(UNTRACKED, tmp_path / "here", without_policies(sweep.store, disk / "store"))
        warm.start(trial.command, trial.cwd, trial.store)
        wait_until(lambda: list(trial.cwd.rglob("step-*.ckpt")))
        ballast = fill(disk, but=8 << 10)
        line = warm.wait().error
        assert "stage 'policy' could not be written" in line
        assert "No space left on device" in line
        assert "rft store gc" in line
        assert list(trial.cwd.rglob("step-*.ckpt"))  # nothing of the training is lost
        ballast.unlink()
        assert warm(trial.command, trial.cwd, trial.store).code == 0
        assert_same(trial.result, whole)


class TestTrialFolder:
    def test_read_only(self, warm: Warm, shared: Path, tmp_path: Path) -> None:
        runs = tmp_path / "runs"
        runs.mkdir()
        with read_only(runs):
            line = warm(UNTRACKED, tmp_path, shared).error
        assert "runs" in line
        assert "Read-only file system" in line

    def test_becomes_read_only_while_a_policy_is_trained(
        self, warm: Warm, shared: Path, whole: Result, tmp_path: Path
    ) -> None:
        trial = Trial(UNTRACKED, tmp_path / "here", shared)
        warm.start(trial.command, trial.cwd, trial.store)
        wait_until(lambda: list(trial.cwd.rglob("step-*.ckpt")))
        with read_only(trial.cwd / "runs"):
            line = warm.wait().error
        assert "Read-only file system" in line
        assert "checkpoints" in line
        assert warm(trial.command, trial.cwd, trial.store).code == 0
        assert_same(trial.result, whole)

    def test_without_room_for_the_record(
        self, mount: Callable[[str, int], Path], warm: Warm, whole: Result, tmp_path: Path
    ) -> None:
        # All is there but the record, which is some kilobytes.
        store = shutil.copytree(whole.store, tmp_path / "store")
        trial = Trial(UNTRACKED, mount("disk", 4 << 20), store)
        (trial.cwd / "runs").mkdir()
        ballast = fill(trial.cwd, but=40 << 10)
        outcome = warm(trial.command, trial.cwd, trial.store)
        line = outcome.error
        assert "No space left on device" in line
        assert str(trial.cwd / "runs") in line
        ballast.unlink()
        outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        assert trial.result.computed == set()

    def test_without_room_for_a_third_checkpoint_two_are_kept(
        self, mount: Callable[[str, int], Path], warm: Warm, shared: Path, whole: Result, tmp_path: Path
    ) -> None:
        probe = Trial(UNTRACKED, tmp_path / "probe", without_policies(whole.store, tmp_path / "probe-store"))
        size = killed_with_checkpoints(probe, warm, 1)[-1].stat().st_size
        trial = Trial([*UNTRACKED, "evaluation.checkpoints=0"], mount("disk", 32 << 20), shared)
        fill(trial.cwd, but=int(2.5 * size) + (64 << 10))
        outcome = warm(trial.command, trial.cwd, trial.store)
        assert outcome.code == 0, outcome.stderr
        assert trial.result.history() == whole.history()
