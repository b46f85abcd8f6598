"""From questions to evaluation by the command line, for every algorithm; and what a second start does."""

from __future__ import annotations

import json
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rft.data.offline import load_answers, reference_logprobs
from rft.models.backbone import Role
from rft.models.pretrained import LoraConfig
from rft.strategy import Config as StrategyConfig
from rft.strategy import Strategy
from rft.study.training import make_backbone
from tests.integration.conftest import Sweep
from tests.integration.harness import OF, TINY, Result, Warm, files_under, rft, study, trial_folder

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

STAGES = ("questions", "sft", "candidates", "gold", "annotators", "preferences", "reward_model", "policy", "evaluation")
COLUMNS = {
    "split": "string",
    "prompt_id": "string",
    "prompt": "string",
    "response": "string",
    "proxy": "double",
    "kl": "double",
    "length": "int64",
    "truncated": "bool",
    "sample": "int64",
    "gold_logit": "double",
    "gold": "double",
}
ALGORITHMS = ("sft", "ppo", "dpo", "rlaif")


class TestSweep:
    def test_ends_well_and_every_trial_is_recorded(self, sweep: Sweep) -> None:
        assert sweep.outcome.code == 0, sweep.outcome.stderr
        assert set(sweep.trials) == set(ALGORITHMS)
        for name, trial in sweep.trials.items():
            record = trial.record
            assert (record["status"], record["error"]) == ("done", None)
            assert (record["study"], record["seed"], record["algorithm"]) == ("sweep", 0, name)
            assert record["config"]["algorithm"]["name"] == name
            assert f"algorithm={name}" in record["overrides"]
            wanted = set(STAGES) - ({"annotators", "gold"} if name == "rlaif" else set())
            assert wanted <= set(record["stages"]) <= {*STAGES, *(["reference"] if name == "dpo" else [])}

    def test_the_folder_tells_of_it_without_the_store(self, sweep: Sweep) -> None:
        for name, trial in sweep.trials.items():
            rows = pq.read_table(trial.folder / "evaluation.parquet")
            assert rows.equals(pq.read_table(trial.entry("evaluation") / "evaluation.parquet"))
            gold = np.array(rows["gold"])[np.array(rows["split"]) == "test"].mean()
            assert trial.record["metrics"]["eval/test/gold"] == pytest.approx(gold, abs=1e-6)
            history = json.loads((trial.folder / "history.json").read_text(encoding="utf-8"))
            assert history == trial.history()
            assert (history == []) == (name == "sft")
        packages = sweep.trials["ppo"].record["made"]["packages"]
        assert packages["python"] == platform.python_version()
        assert packages["torch"] == metadata.version("torch")

    def test_computes_each_shared_stage_once_and_first(self, sweep: Sweep) -> None:
        computed = Counter(stage for trial in sweep.trials.values() for stage in trial.computed)
        # The judge's labels, and the reward model that learns them, are those of one trial alone, which makes them; so
        # is what the reference makes of the fixed answers, from which one algorithm learns.
        assert computed == {"policy": 4, "evaluation": 4, "preferences": 1, "reward_model": 1, "reference": 1}
        made = {
            **dict.fromkeys(("questions", "sft", "candidates", "gold", "annotators"), 1),
            **dict.fromkeys(("preferences", "reward_model"), 2),
            **dict.fromkeys(("policy", "evaluation"), 4),
        }
        assert {stage: sweep.entries[stage] for stage in made} == made

    def test_all_arms_start_alike(self, sweep: Sweep) -> None:
        for stage in ("questions", "sft", "candidates"):
            assert len({trial.digests[stage] for trial in sweep.trials.values()}) == 1
        labels = {name: trial.digests["preferences"] for name, trial in sweep.trials.items()}
        assert labels["ppo"] == labels["dpo"] == labels["sft"] != labels["rlaif"]

    def test_the_evaluation_has_a_row_for_each_sample_of_the_same_questions(self, sweep: Sweep) -> None:
        import pyarrow.parquet as pq

        asked = set()
        for trial in sweep.trials.values():
            table = pq.read_table(trial.entry("evaluation") / "evaluation.parquet")
            assert {field.name: str(field.type) for field in table.schema} == COLUMNS
            rows = table.to_pylist()
            assert Counter(row["split"] for row in rows) == {"test": 6, "ood": 4}
            asked.add(tuple((row["prompt_id"], row["prompt"], row["sample"]) for row in rows))
            assert all(0 < row["gold"] < 1 and 1 <= row["length"] <= 10 for row in rows)
        assert len(asked) == 1

    def test_the_control_is_the_reference_and_the_others_are_not(self, sweep: Sweep) -> None:
        import pyarrow.parquet as pq

        for name, trial in sweep.trials.items():
            kl = pq.read_table(trial.entry("evaluation") / "evaluation.parquet").column("kl").to_pylist()
            assert all(x == 0 for x in kl) is (name == "sft")

    def test_metric_names_are_the_same_for_every_algorithm(self, sweep: Sweep) -> None:
        rollout = {"rollout/reward", "rollout/kl", "rollout/length", "rollout/truncated"}
        of_evaluation = set()
        for name, trial in sweep.trials.items():
            manifest = json.loads((trial.entry("evaluation") / "manifest.json").read_text(encoding="utf-8"))
            of_evaluation.add(frozenset(manifest["metrics"]))
            rows = trial.history()
            assert bool(rows) is (name != "sft")
            for row in rows:
                assert {key.partition("/")[0] for key in row} <= {"step", "rollout", "train", "budget"}
                assert "train/loss" in row
                assert ({key for key in row if key.startswith("rollout/")} == rollout) is (name != "dpo")
        names = ("gold", "proxy", "kl", "length", "truncated")
        assert of_evaluation == {frozenset(f"eval/{split}/{x}" for split in ("test", "ood") for x in names)}
        assert set(sweep.trials["ppo"].history()[0]) == set(sweep.trials["rlaif"].history()[0])

    def test_what_training_used_is_counted_by_hand(self, sweep: Sweep) -> None:
        import pyarrow.parquet as pq

        ppo, dpo = sweep.trials["ppo"], sweep.trials["dpo"]
        for trial in (ppo, dpo):
            manifest = json.loads((trial.entry("policy") / "manifest.json").read_text(encoding="utf-8"))
            last = {k.removeprefix("budget/"): v for k, v in trial.history()[-1].items() if k.startswith("budget/")}
            assert manifest["metrics"]["usage"] == last
            assert len(manifest["cost"]["clock"]) == len(trial.history())
        used = {k: v for k, v in ppo.history()[-1].items() if k.startswith("budget/")}
        # Twenty iterations of 32 prompts; the mean length is over an iteration's rollouts.
        assert used["budget/prompts"] == 20 * 32
        assert used["budget/generated_tokens"] == round(sum(32 * row["rollout/length"] for row in ppo.history()))
        labels = pq.read_table(dpo.entry("preferences") / "labels.parquet").num_rows
        manifest = json.loads((dpo.entry("preferences") / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["metrics"]["usage"]["labels"] == labels
        assert manifest["metrics"]["usage"]["human_labels"] == 3 * labels
        assert 0 < dpo.history()[-1]["budget/labels"] <= labels
        assert dpo.history()[-1]["budget/generated_tokens"] == 0

    def test_what_dpo_prepares_counts_once_however_often_it_goes_over_its_pairs(
        self, sweep: Sweep, warm: Warm, tmp_path: Path
    ) -> None:
        flops = {}
        for passes in (1, 2):
            more = ("algorithm=dpo", "algorithm.pairs_per_step=1", f"algorithm.epochs={passes}", "until=policy")
            arm = (f"arm=passes-{passes}", "evaluation.checkpoints=0", "tracker=none")
            outcome = warm(["run", *more, *arm, *TINY], tmp_path, sweep.store)
            assert outcome.code == 0, outcome.stderr
            history = max((sweep.store / "policy").glob("*/history.json"), key=lambda path: path.stat().st_mtime)
            flops[passes] = json.loads(history.read_text(encoding="utf-8"))[-1]["budget/flops"]

        backbone, _ = make_backbone(
            sweep.trials["dpo"].entry("sft"), Strategy(StrategyConfig()), LoraConfig(enabled=False), [Role.policy]
        )
        reference_logprobs(load_answers(sweep.trials["dpo"].entry("candidates"), backbone.pad_id), backbone)
        assert 2 * flops[1] - flops[2] == pytest.approx(backbone.usage.flops, rel=1e-9)

    def test_the_policy_is_tested_at_points_of_its_training(self, sweep: Sweep) -> None:
        import pyarrow.parquet as pq

        for name in ("ppo", "dpo"):
            entry = sweep.trials[name].entry("evaluation")
            table = pq.read_table(entry / "checkpoints.parquet").to_pylist()
            steps = sorted({(row["step"], row["fraction"]) for row in table})
            assert len(steps) == 3
            last = sweep.trials[name].history()[-1]["step"]
            assert all(0 < fraction < 1 for _, fraction in steps)
            assert [step / last for step, _ in steps] == pytest.approx([f for _, f in steps], abs=0.1)
            assert Counter(row["step"] for row in table) == {step: 6 for step, _ in steps}
            questions = {
                r["prompt_id"] for r in pq.read_table(entry / "evaluation.parquet").to_pylist() if r["split"] == "test"
            }
            assert {row["prompt_id"] for row in table} == questions
        assert not (sweep.trials["sft"].entry("evaluation") / "checkpoints.parquet").exists()

    def test_the_first_minibatch_of_fresh_rollouts_changes_no_ratio(
        self, sweep: Sweep, warm: Warm, tmp_path: Path
    ) -> None:
        # One pass of one minibatch an iteration: each row is a first minibatch.
        one = ["algorithm=ppo", "algorithm.minibatches=1", "algorithm.iterations=3", "until=policy", "arm=one"]
        outcome = warm(["run", *one, "tracker=none", *TINY], tmp_path, sweep.store)
        assert outcome.code == 0, outcome.stderr
        history = max((sweep.store / "policy").glob("*/history.json"), key=lambda path: path.stat().st_mtime)
        rows = json.loads(history.read_text(encoding="utf-8"))
        assert len(rows) == 3
        for row in rows:
            assert row["train/ratio"] == 1.0
            assert row["train/clip_fraction"] == 0.0
            assert row["train/update_kl"] == 0.0

    def test_the_policy_starts_at_the_reference_and_leaves_it(self, sweep: Sweep) -> None:
        first, *later = sweep.trials["ppo"].history()
        assert first["rollout/kl"] == 0.0
        assert all(row["rollout/kl"] != 0.0 for row in later)

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_again_computes_nothing(self, sweep: Sweep, warm: Warm, name: str) -> None:
        trial = sweep.trials[name]
        before, digests = files_under(sweep.store), trial.digests
        folders = set((sweep.cwd / "runs").rglob("trial.json"))
        outcome = warm(["run", f"algorithm={name}", *Sweep.overrides[1:]], sweep.cwd, sweep.store)
        assert outcome.code == 0, outcome.stderr
        assert "nothing to compute" in outcome.stdout
        assert trial.computed == set()
        assert trial.digests == digests
        assert files_under(sweep.store) == before
        assert set((sweep.cwd / "runs").rglob("trial.json")) == folders

    def test_another_seed_repeats_the_policy_alone(self, sweep: Sweep, warm: Warm, tmp_path: Path) -> None:
        outcome = warm(["run", "algorithm=dpo", "seed=1", "arm=dpo", *TINY], tmp_path, sweep.store)
        assert outcome.code == 0, outcome.stderr
        trial = Result(trial_folder(tmp_path, "dpo", 1), sweep.store)
        assert trial.computed == {"policy", "evaluation"}
        assert trial.digests["policy"] != sweep.trials["dpo"].digests["policy"]


@pytest.mark.slow
def test_a_second_time_from_an_empty_store_gives_the_same_summary_to_the_last_bit(
    sweep: Sweep, fresh: Path, warm: Warm, tmp_path: Path
) -> None:
    for name in ALGORITHMS:
        outcome = warm(["run", f"algorithm={name}", *Sweep.overrides[1:], "tracker=none"], tmp_path, fresh)
        assert outcome.code == 0, outcome.stderr
    for cwd, store in ((sweep.cwd, sweep.store), (tmp_path, fresh)):
        assert warm(["compare", "sweep"], cwd, store).code == 0
    for file in (tmp_path / "runs" / "sweep").rglob("trial.json"):
        again = Result(file.parent, fresh)
        assert again.digests == sweep.trials[str(again.record["algorithm"])].digests
    assert without_cost(tmp_path / "runs" / "sweep") == without_cost(sweep.cwd / "runs" / "sweep")


def without_cost(folder: Path) -> str:
    """The text of a summary but for its times and the machine."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary.pop("cost")
    assert summary.pop("environment")
    return json.dumps(summary)


@pytest.mark.slow
def test_a_sweep_over_seeds_computes_shared_stages_once_and_the_same_sweep_nothing(fresh: Path, tmp_path: Path) -> None:
    command = ["run", "-m", "algorithm=ppo,dpo,rlaif", "seed=0,1", "study=seeds", *TINY]
    before: dict[Path, bytes] = {}
    for start in ("first", "second"):
        outcome = rft(command, tmp_path, fresh)
        assert outcome.code == 0, outcome.stderr
        records = {file: file.read_bytes() for file in (tmp_path / "runs" / "seeds").rglob("trial.json")}
        trials = [Result(file.parent, fresh) for file in (tmp_path / "runs" / "seeds").rglob("trial.json")]
        assert len(trials) == 6
        computed = Counter(stage for trial in trials for stage in trial.computed)
        if start == "second":
            assert records == before  # not one was started
            continue
        before = records
        made = {"sft": 1, "candidates": 1, "preferences": 2, "reward_model": 2, "policy": 6}
        assert {stage: len(list((fresh / stage).iterdir())) for stage in made} == made
        assert set(computed) == {"policy", "evaluation", "reference"}


@pytest.mark.slow
def test_a_study_twice_from_empty_stores_gives_the_same_summary(fresh: Path, assets: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(assets, tmp_path / "other" / "asset")
    folders = []
    for store in (fresh, tmp_path / "other"):
        cwd = tmp_path / f"in-{store.name}"
        where = study(cwd / "small", arms={name: OF[name] for name in ALGORITHMS}, seeds=[0, 1])
        outcome = rft(["compare", str(where)], cwd, store)
        assert outcome.code == 0, outcome.stderr
        folders.append(cwd / "runs" / "small")
    assert without_cost(folders[0]) == without_cost(folders[1])
