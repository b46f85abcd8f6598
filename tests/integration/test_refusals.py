"""What bad input gets: one line that names what, where and the mend, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Outcome, Result, Warm, files_under, rft, study, trial_folder

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

GOOD = [
    {"text": f"The {split} film number {i} was", "split": split}
    for split in ("train", "validation", "test", "ood")
    for i in range(16 if split == "train" else 4)
]
WITHOUT_MODEL = tuple(override for override in TINY if not override.startswith("model"))


def prompt_file(path: Path, rows: Sequence[Mapping[str, str] | str]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def refused(outcome: Outcome, *words: str) -> str:
    line = outcome.error
    for word in words:
        assert word in line
    assert line.startswith("rft: ")
    return line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algorithm.clip_rang=0.1", ("algorithm.clip_rang", "did you mean 'clip_range'")),
        ("algorithm.lr=fast", ("algorithm.lr", "is no number")),
        ("algorithm.prompts_per_iteration=33", ("algorithm.prompts_per_iteration=33", "32", "task.train_prompts")),
    ],
)
def test_a_bad_setting_leaves_not_even_a_folder(
    sweep: Sweep, warm: Warm, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    before = files_under(sweep.store)
    assert refused(warm(["run", "algorithm=ppo", *TINY, override], tmp_path, sweep.store), *words)
    assert refused(warm(["run", "-m", "algorithm=ppo", "seed=0,1", *TINY, override], tmp_path, sweep.store), *words)
    assert files_under(sweep.store) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told", ["two", "-1", "1.5"])
def test_threads_that_are_no_number_leave_not_even_a_folder(
    sweep: Sweep, warm: Warm, tmp_path: Path, told: str
) -> None:
    outcome = warm(["run", "algorithm=ppo", *TINY], tmp_path, sweep.store, RFT_THREADS=told)
    assert refused(outcome, f"RFT_THREADS={told}", "a whole number")
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


class TestModelPath:
    def run(self, warm: Warm, tmp_path: Path, store: Path, path: str, *, begins: bool) -> Outcome:
        before = files_under(store)
        command = ["run", "algorithm=sft", "model=hf", f"model.path={path}", "arm=hf", *WITHOUT_MODEL]
        outcome = warm(command, tmp_path, store)
        assert files_under(store) == before
        if not begins:
            assert not (tmp_path / "runs").exists()
            return outcome
        record = json.loads((trial_folder(tmp_path, "hf") / "trial.json").read_text(encoding="utf-8"))
        assert (record["status"], f"rft: {record['error']}") == ("failed", outcome.error)
        return outcome

    def test_that_is_not_there(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        path = str(tmp_path / "nowhere")
        outcome = self.run(warm, tmp_path, sweep.store, path, begins=False)
        assert refused(outcome, f"model.path={path}", "no such folder")

    def test_without_a_model(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        path = str(tmp_path / "empty")
        outcome = self.run(warm, tmp_path, sweep.store, path, begins=False)
        assert refused(outcome, f"model.path={path}", "no model", "save_pretrained")

    def test_that_is_no_hub_id_either(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        outcome = self.run(warm, tmp_path, sweep.store, "nobody/nothing", begins=True)
        assert refused(outcome, "model.path=nobody/nothing", "hub id")

    def test_with_a_model_is_taken(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        path = sweep.trials["ppo"].entry("sft")
        folder = tmp_path / "model"
        shutil.copytree(path, folder, ignore=shutil.ignore_patterns("manifest.json"))
        command = ["run", "until=questions", "model=hf", f"model.path={folder}", *WITHOUT_MODEL]
        outcome = warm(command, tmp_path, sweep.store)
        assert outcome.code == 0, outcome.stderr
        assert "computed questions" in outcome.stdout


class TestPromptFile:
    def run(self, warm: Warm, tmp_path: Path, store: Path, rows: Sequence[Mapping[str, str] | str]) -> Outcome:
        file = prompt_file(tmp_path / "mine.jsonl", rows)
        command = ["run", "algorithm=sft", f"task.prompt_file={file}", "arm=mine", *TINY]
        return warm(command, tmp_path, store)

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([*GOOD, '{"text": "cut'], (f"mine.jsonl:{len(GOOD) + 1}: ", "not JSON", '"split"')),
            ([GOOD[0], "", *GOOD[1:]], ("mine.jsonl:2: ", "an empty line")),
            ([row for row in GOOD if row["split"] != "ood"], ("mine.jsonl: ", "split ood is empty", "add lines")),
        ],
    )
    def test_with_a_fault_is_refused_with_its_line(
        self,
        sweep: Sweep,
        warm: Warm,
        tmp_path: Path,
        rows: Sequence[Mapping[str, str] | str],
        words: tuple[str, ...],
    ) -> None:
        before = files_under(sweep.store)
        assert refused(self.run(warm, tmp_path, sweep.store, rows), *words)
        assert files_under(sweep.store) == before

    def test_with_a_prompt_beyond_the_models_positions(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        rows = [*GOOD, {"text": "very " * 600, "split": "train"}]
        words = (f"train-line{len(GOOD) + 1:05d}", "512 positions", "shorten it")
        assert refused(self.run(warm, tmp_path, sweep.store, rows), *words)


def test_a_strategy_that_the_machine_cannot_run(sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = ["run", "algorithm=ppo", "strategy.accelerator=gpu", "arm=gpu", *TINY]
    assert refused(warm(command, tmp_path, sweep.store), "strategy.accelerator=gpu", "0", "use strategy=cpu")


def load_checkpoint(file: Path) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


class TestDivergence:
    @pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
    def test_stops_and_names_the_step(self, sweep: Sweep, warm: Warm, tmp_path: Path, algorithm: str) -> None:
        before = files_under(sweep.store)
        command = ["run", *OF[algorithm], "algorithm.lr=1e30", "arm=far", *TINY]
        line = refused(warm(command, tmp_path, sweep.store), f"{algorithm}: ", "at step ", "algorithm.lr")
        record = Result(trial_folder(tmp_path, "far"), sweep.store).record
        assert (record["status"], f"rft: {record['error']}") == ("failed", line)
        assert files_under(sweep.store) == before

    def test_leaves_the_last_checkpoint_of_finite_weights(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        import torch

        # A rate at which the first steps still give numbers; a checkpoint is made after each iteration.
        command = ["run", "algorithm=ppo", "algorithm.minibatches=1", "algorithm.lr=1e17", "arm=far", *TINY]
        line = refused(warm(command, tmp_path, sweep.store), "step ")
        (file,) = trial_folder(tmp_path, "far").glob("checkpoints/*/*")
        checkpoint = load_checkpoint(file)
        assert all(torch.isfinite(weights).all() for weights in checkpoint["state_dict"].values())
        stopped = int(line.partition("step ")[2].partition(";")[0].split()[0])
        assert 0 < checkpoint["global_step"] <= stopped

    @pytest.mark.parametrize(("key", "what"), [("sft.lr", "start policy"), ("reward.lr", "reward model")])
    def test_of_a_shared_stage_is_not_stored(
        self, sweep: Sweep, warm: Warm, tmp_path: Path, key: str, what: str
    ) -> None:
        before = files_under(sweep.store)
        command = ["run", "algorithm=dpo", f"{key}=1e30", "until=reward_model", *[x for x in TINY if key not in x]]
        outcome = warm(command, tmp_path, sweep.store)
        assert ("not finite" in outcome.error) or (what in outcome.error and key in outcome.error)
        assert files_under(sweep.store) == before


class TestStudyFile:
    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"arms": {}}, ("study.yaml", "arms", "is empty")),
            ({"seeds": [0, 0]}, ("study.yaml", "seeds", "different")),
            ({"sedes": [0]}, ("study.yaml", "sedes", "seeds")),
            ({"jobs": "many"}, ("study.yaml", "jobs")),
            ({"arms": {"ppo": ["algorithm=ppo", "algorithm.clip_rang=1"]}}, ("arm ppo", "did you mean 'clip_range'")),
        ],
    )
    def test_with_a_fault(
        self, sweep: Sweep, warm: Warm, tmp_path: Path, more: dict[str, object], words: tuple[str, ...]
    ) -> None:
        where = study(tmp_path / "mine", **more)
        assert refused(warm(["compare", str(where)], tmp_path, sweep.store), *words)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_that_is_no_yaml_is_named_with_its_line(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        (tmp_path / "study.yaml").write_text("arms:\n  sft: [algorithm=sft\nseeds: [0]\n", encoding="utf-8")
        assert refused(warm(["compare", str(tmp_path)], tmp_path, sweep.store), "study.yaml:3", "not YAML")

    def test_that_is_not_there(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        assert refused(warm(["compare", "nothing"], tmp_path, sweep.store), "nothing", "rft run -m")


@pytest.fixture
def small_disk(shared: Path, tmp_path: Path) -> Iterator[Path]:
    """The sweep's shared stages on a file system with little room beside them."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size + 8192 for path in shared.rglob("*")) + (1 << 20)
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    shutil.copytree(shared, disk / "store")
    yield disk
    subprocess.run([str(umount), "-l", disk], check=True)


class TestFullDisk:
    def test_in_the_middle_of_a_stage(self, small_disk: Path, warm: Warm, tmp_path: Path) -> None:
        store = small_disk / "store"
        room = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(b"x" * (room - (24 << 10)))
        command = ["run", *OF["dpo"], "tracker=none", "arm=full", *TINY]
        line = refused(warm(command, tmp_path, store), "stage 'policy'", "No space left on device", "RFT_STORE")
        assert Result(trial_folder(tmp_path, "full"), store).record["error"] in line
        assert not list((store / "policy").iterdir())
        assert not list((store / "tmp").iterdir())
        (small_disk / "ballast").unlink()
        assert warm(command, tmp_path, store).code == 0

    @pytest.mark.slow
    def test_of_the_checkpoints_keeps_the_one_before(
        self, shared: Path, small_disk: Path, warm: Warm, tmp_path: Path
    ) -> None:
        command = ["run", *OF["ppo"], "tracker=none", "arm=full", "evaluation.checkpoints=0", *TINY]
        # Checkpoints go with the end of the stage that they are for: the size is taken while it runs.
        warm.start(command, tmp_path, shared)
        while not (found := list(tmp_path.glob("runs/scratch/full-s0-*/checkpoints/*/step-*.ckpt"))):
            time.sleep(0.002)
        whole = found[0].stat().st_size
        assert warm.wait().code == 0
        assert not list(trial_folder(tmp_path, "full").glob("checkpoints/*/*"))
        shutil.rmtree(shared / "policy")
        shutil.rmtree(small_disk / "store")
        # Room for the first checkpoint, and not for a second beside it.
        room = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(b"x" * (room - int(1.5 * whole)))
        line = refused(warm(command, small_disk, shared), "stage 'policy'", "No space left on device")
        (file,) = trial_folder(small_disk, "full").glob("checkpoints/*/*")
        assert str(file.parent) in line
        assert load_checkpoint(file)["epoch"] == 0
        (small_disk / "ballast").unlink()
        assert warm(command, small_disk, shared).code == 0


def test_a_flipped_byte_is_found_reported_and_recomputed(shared: Path, warm: Warm, tmp_path: Path) -> None:
    command = ["run", *OF["dpo"], "tracker=none", "arm=dpo", *TINY]
    assert warm(command, tmp_path, shared).code == 0
    trial = Result(trial_folder(tmp_path, "dpo"), shared)
    digests, file = trial.digests, trial.entry("policy") / "policy.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert rft(["store", "verify"], tmp_path, shared).code == 1
    outcome = warm(command, tmp_path, shared)
    assert outcome.code == 0
    said = outcome.stdout + outcome.stderr
    assert f"policy/{trial.entry('policy').name}/policy.safetensors: does not match its sha256" in said
    assert "computed again" in said
    assert trial.computed == {"policy"}
    assert trial.digests == digests
