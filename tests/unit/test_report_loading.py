"""Loading a study: what bad records and rows get, which rows count when trials disagree, what is read and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft.errors import UserError
from rft.evaluation.metrics import distinct_n
from rft.report import StudyResults, summarise
from rft.report.checkpoints import Checkpoint
from rft.report.html import render
from rft.report.markdown import escape, markdown
from rft.store.cost import COST
from rft.store.running import LOCK, at_work
from tests.synthetic_study import LargeStudy, Study

Rows = list[dict[str, Any]]
SETTINGS = {"evaluation": {"splits": ["test", "ood"], "samples_per_prompt": 1}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def set_all(**values: Any) -> Callable[[Rows], None]:
    """Changes every row."""

    def change(rows: Rows) -> None:
        for row in rows:
            row.update(values)

    return change


def drop(column: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            row.pop(column)

    return change


def with_evaluation(study: Study, seed: int, write: Callable[[Path], Any], **key: Any) -> None:
    """A ppo trial whose evaluation entry holds what `write` writes."""

    def change(record: dict[str, Any]) -> None:
        entry = study.stage("evaluation", arm="ppo", seed=seed, write=write, **key)
        record["stages"]["evaluation"], record["evaluation"] = entry, entry["key"]

    study.trial("ppo", seed, change=change)


def seeds(results: StudyResults) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for trial in results.trials:
        found.setdefault(trial.arm, []).append(trial.seed)
    return found


class TestBadRows:
    """One trial of a sound study is bad: it alone is left out, and its reason names the place."""

    @pytest.mark.parametrize(
        ("change_rows", "reason"),
        [
            (lambda rows: rows.pop(30), "split ood lacks 1 of 24 rows (prompt ood-0030, sample 0)"),
            (lambda rows: rows.extend(rows[:2]), "sample 0; prompt test-0001, sample 0 are there twice"),
            (lambda rows: rows[5].update(gold=float("inf")), "split test: gold of prompt test-0005 is inf"),
            (lambda rows: rows[5].update(gold=None), "split test: gold of prompt test-0005 is nan"),
            (set_all(gold=float("nan")), "gold of prompt ood-0024 is nan (and 23 more)"),
            (lambda rows: rows[5].update(proxy=float("nan")), "proxy of prompt test-0005 is nan"),
            (lambda rows: rows[5].update(kl=-float("inf")), "kl of prompt test-0005 is -inf"),
            (lambda rows: rows[5].update(length=None), "length of prompt test-0005 is nan"),
            (lambda rows: rows[5].update(gold_logit=float("inf")), "gold_logit of prompt test-0005 is inf"),
            (lambda rows: rows[5].update(gold=1.2), "gold of prompt test-0005 is 1.2; it must be from 0 to 1"),
            (lambda rows: rows[30].update(gold=-0.01), "split ood: gold of prompt ood-0030 is -0.01"),
            (set_all(gold=7), "gold of prompt ood-0024 is 7.0 (and 23 more); it must be from 0 to 1"),
            (lambda rows: rows[5].update(length=0), "length of prompt test-0005 is 0.0; it must be at least 1"),
            (lambda rows: rows[5].update(length=-3), "length of prompt test-0005 is -3.0; it must be at least 1"),
            (lambda rows: rows[5].update(response=None), "response is missing in 1 of 48 rows"),
            (lambda rows: rows[5].update(prompt_id=None), "prompt_id is missing in 1 of 48 rows"),
            (lambda rows: rows[5].update(truncated=None), "truncated is missing in 1 of 48 rows"),
            (set_all(response=b"\xff\xfe"), "a column has the wrong type (Invalid UTF8"),
            (set_all(gold="high"), "a column has the wrong type"),
            (set_all(sample=0.5), "a column has the wrong type"),
            (drop("kl"), "has no column kl"),
            (lambda rows: rows[5].update(prompt="another text"), "other texts under the same prompt ids"),
            (lambda rows: rows[5].update(prompt_id="test-0999"), "lacks 1 of 24 rows (prompt test-0005, sample 0) and"),
            (lambda rows: rows.extend([{**rows[0], "sample": 1}]), "has 1 rows that they lack (prompt test-0000, sam"),
            (lambda rows: rows.__delitem__(slice(24, None)), "split ood is missing"),
            (lambda rows: rows.append({**rows[0], "split": "validation"}), "validation is there, which they lack"),
        ],
    )  # fmt: skip
    def test_are_named_and_left_out(self, study: Study, change_rows: Callable[[Rows], Any], reason: str) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        study.trial("ppo", 2, change_rows=change_rows)
        results = study.load()
        assert seeds(results) == {"ppo": [0, 1], "sft": [0, 1]}
        (failed,) = results.failed
        assert (failed.arm, failed.seed, failed.folder) == ("ppo", 2, "ppo/seed-2")
        assert reason in failed.error
        assert summarise(results)["failed"][0]["error"] == failed.error

    def test_of_a_length_above_what_the_task_allows(self, study: Study) -> None:
        def change(record: dict[str, Any]) -> None:
            record["config"]["task"] = {"response_tokens": 24}

        study.trial("sft", 0, change=change)
        study.trial("ppo", 0, change=change, change_rows=lambda rows: rows[5].update(length=24))
        study.trial("ppo", 1, change=change, change_rows=lambda rows: rows[5].update(length=25))
        results = study.load()
        assert seeds(results) == {"ppo": [0], "sft": [0]}
        assert results.failed[0].error == (
            "evaluation.parquet: split test: length of prompt test-0005 is 25.0; it must be from 1 to 24"
        )

    def test_at_the_ends_of_what_can_be_and_with_a_negative_kl_are_kept(self, study: Study) -> None:
        study.trial("sft", 0)
        study.trial("ppo", 0, change_rows=lambda rows: rows[5].update(gold=1.0, length=1, kl=-0.3))
        study.trial("ppo", 1, change_rows=lambda rows: rows[5].update(gold=0.0))
        assert study.load().failed == ()

    def test_of_a_file_that_is_no_parquet(self, study: Study) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        with_evaluation(study, 2, lambda folder: (folder / "evaluation.parquet").write_bytes(b"PAR1 nonsense PAR1"))
        with_evaluation(study, 3, lambda folder: None, nothing=True)
        results = study.load()
        assert seeds(results) == {"ppo": [0, 1], "sft": [0, 1]}
        assert ["evaluation.parquet cannot be read" in failed.error for failed in results.failed] == [True, True]

    def test_of_a_file_that_is_cut(self, study: Study) -> None:
        """The sums are those of the cut file: what is found is found in the parquet itself."""
        study.fill(("sft", "ppo"), seeds=2)
        whole = next((study.store.root / "evaluation").glob("*/evaluation.parquet")).read_bytes()

        def write(folder: Path) -> None:
            (folder / "evaluation.parquet").write_bytes(b"\0" * (len(whole) // 2) + whole[len(whole) // 2 :])

        with_evaluation(study, 2, write)
        (failed,) = study.load().failed
        assert "evaluation.parquet" in failed.error

    def test_of_a_file_that_changed_on_disk(self, study: Study, tmp_path: Path) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        record = json.loads(study.trial("ppo", 2).read_text())
        file = study.store.root / "evaluation" / record["evaluation"][:16] / "evaluation.parquet"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        from rft.report import load_study
        from rft.store import Store, store

        store._verified.clear()  # another process has checked no sums yet
        results = load_study(study.folder, Store(study.store.root))
        assert [failed.folder for failed in results.failed] == ["ppo/seed-2"]
        assert "its evaluation is corrupt: evaluation.parquet does not match its sha256" in results.failed[0].error
        assert file.read_bytes() == data
        assert not (study.store.root / "quarantine").exists()


class TestDamagedRecords:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda r: r.update(seed="first"), "seed is 'first', no int"),
            (lambda r: r.update(seed=True), "seed is 'True', no int"),
            (lambda r: r.update(arm=None), "arm is 'None', no str"),
            (lambda r: r.update(stages=[1]), "stages is '[1]', no dict"),
            (lambda r: r["stages"].update(policy="done"), "stages.policy has no key and digest"),
            (lambda r: r["stages"]["policy"].pop("digest"), "stages.policy has no key and digest"),
            (lambda r: r["stages"]["policy"].update(key="short"), "stages.policy: 'short' is no key"),
            (lambda r: r["stages"].update({"../x": r["stages"]["policy"]}), "'../x' cannot be a stage name"),
            (lambda r: r.update(evaluation=7), "evaluation is '7', no str"),
            (lambda r: r.update(evaluation="../../etc"), "is no key"),
            (lambda r: r.update(config=[1]), "config is no object"),
            (lambda r: r.pop("stages"), "lacks stages"),
            (lambda r: r.update(status="running"), "status is 'running', not 'done'"),
        ],
    )
    def test_are_named_and_left_out(self, study: Study, change: Callable[[dict[str, Any]], Any], reason: str) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        study.trial("ppo", 2, change=change)
        results = study.load()
        assert seeds(results) == {"ppo": [0, 1], "sft": [0, 1]}
        (failed,) = results.failed
        assert (failed.arm, failed.folder) == ("ppo", "ppo/seed-2")
        assert reason in failed.error

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"arm": "ppo", "seed": 2'])
    def test_that_are_no_records_are_named_by_their_folder(self, study: Study, content: bytes) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        study.trial("ppo", 2).write_bytes(content)
        (failed,) = study.load().failed
        assert (failed.arm, failed.seed, failed.folder) == ("ppo", None, "ppo/seed-2")
        assert "trial.json" in failed.error


class TestDisagreement:
    """Which rows count when trials answered different questions."""

    @staticmethod
    def fill(study: Study, **changed: tuple[int, Callable[[Rows], Any] | None]) -> StudyResults:
        for arm, (count, change_rows) in changed.items():
            for seed in range(count):
                study.trial(arm, seed, change_rows=change_rows)
        return study.load()

    def test_an_arm_with_another_set_is_named_as_in_no_number(self, study: Study) -> None:
        results = self.fill(study, sft=(2, None), ppo=(2, None), dpo=(2, lambda rows: rows.pop()))
        assert seeds(results) == {"ppo": [0, 1], "sft": [0, 1]}
        assert [failed.folder for failed in results.failed] == ["dpo/seed-0", "dpo/seed-1"]
        assert results.warnings == ("arm dpo is in no number: all its 2 trials are left out",)
        assert summarise(results)["warnings"] == list(results.warnings)

    def test_an_arm_that_only_failed_is_named_too(self, study: Study) -> None:
        study.fill(("sft", "ppo"), seeds=2)
        study.trial("dpo", 0, change=lambda r: r.update(status="failed", error="no memory"))
        assert study.load().warnings == ("arm dpo is in no number: its only trial is left out",)

    def test_a_tie_goes_to_the_set_with_more_rows_and_is_told(self, study: Study) -> None:
        # dpo comes first by name, and has fewer rows.
        results = self.fill(study, dpo=(2, lambda rows: rows.pop()), ppo=(2, None))
        assert seeds(results) == {"ppo": [0, 1]}
        assert results.warnings == (
            "as many trials (2) answered other questions: those of ppo are taken, dpo are left out",
            "arm dpo is in no number: all its 2 trials are left out",
        )
        assert "than others: split ood lacks 1 of 24 rows" in results.failed[0].error

    def test_a_tie_goes_to_the_set_of_more_arms_first(self, study: Study) -> None:
        results = self.fill(study, ppo=(2, None), dpo=(1, lambda rows: rows.pop()), sft=(1, lambda rows: rows.pop()))
        assert seeds(results) == {"dpo": [0], "sft": [0]}

    def test_a_tie_of_equals_goes_to_the_first_arm_by_name(self, study: Study) -> None:
        def other(rows: Rows) -> None:
            rows[0]["prompt"] = "another text"

        results = self.fill(study, ppo=(2, None), dpo=(2, other))
        assert seeds(results) == {"dpo": [0, 1]}
        assert "those of dpo are taken, ppo are left out" in results.warnings[0]

    def test_the_questions_that_were_to_be_asked_outweigh_most_trials(self, study: Study) -> None:
        """Two of three trials lack the same row: the third one's rows count, as the store has the questions."""
        questions = study.questions()

        def change(record: dict[str, Any]) -> None:
            record["stages"]["questions"] = questions
            record["config"] |= SETTINGS

        study.trial("sft", 0, change=change)
        for seed in (1, 2):
            study.trial("sft", seed, change=change, change_rows=lambda rows: rows.pop())
        results = study.load()
        assert seeds(results) == {"sft": [0]}
        assert results.failed[0].error == (
            "evaluation.parquet: split ood: 1 of 24 rows are missing: prompt ood-0047, sample 0; run the trial again"
        )

    @pytest.mark.parametrize(
        ("evaluation", "change_rows", "reason"),
        [
            ({"samples_per_prompt": 2}, None, "24 of 48 rows are missing"),
            ({"splits": ["test", "validation"]}, None, "split validation is missing"),
            (
                {},
                lambda rows: rows.append({**rows[0], "prompt_id": "test-x"}),
                "1 rows are of no question of the study",
            ),
        ],
    )
    def test_rows_that_all_trials_lack_are_found(
        self, study: Study, evaluation: dict[str, Any], change_rows: Callable[[Rows], Any] | None, reason: str
    ) -> None:
        questions = study.questions()

        def change(record: dict[str, Any]) -> None:
            record["stages"]["questions"] = questions
            record["config"] |= {"evaluation": SETTINGS["evaluation"] | evaluation}

        for seed in (0, 1):
            study.trial("sft", seed, change=change, change_rows=change_rows)
        with pytest.raises(UserError, match=reason):
            study.load()

    def test_as_many_seeds_with_other_settings_are_told(self, study: Study) -> None:
        study.fill(("sft",), seeds=2)
        for seed, rate in ((0, 1e-4), (1, 1e-4), (2, 3e-4), (3, 3e-4)):
            study.trial("ppo", seed, change=lambda r, rate=rate: r["config"].update(algorithm={"lr": rate}))  # type: ignore[misc]
        results = study.load()
        assert seeds(results) == {"ppo": [0, 1], "sft": [0, 1]}
        assert results.warnings == ("as many seeds of ppo have other settings: those of seed 0 and 1 are taken",)


class TestRows:
    def test_are_those_of_the_file_in_the_order_of_prompts(self, study: Study) -> None:
        def shuffle(rows: Rows) -> None:
            np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]

        study.trial("sft", 0)
        study.trial("ppo", 0, change_rows=shuffle)
        for arm in ("sft", "ppo"):
            expected = [row for row in study.rows(arm, 0) if row["split"] == "ood"]
            rows = study.load().arm(arm)[0].rows["ood"]
            assert rows.prompt_ids == tuple(row["prompt_id"] for row in expected)
            assert rows.prompts == tuple(row["prompt"] for row in expected)
            assert rows.identity == tuple((row["prompt_id"], 0) for row in expected)
            assert tuple(rows.responses) == tuple(row["response"] for row in expected)
            assert rows.responses[3] == expected[3]["response"]
            assert rows.responses[-2:] == tuple(row["response"] for row in expected[-2:])
            for name in ("gold", "proxy", "kl", "length", "gold_logit"):
                assert getattr(rows, name).tolist() == [row[name] for row in expected]
            assert rows.truncated.tolist() == [row["truncated"] for row in expected]
            assert distinct_n(rows.responses, 2) == distinct_n([row["response"] for row in expected], 2)

    def test_questions_are_held_once(self, study: Study) -> None:
        study.trial("sft", 0)
        study.trial("ppo", 0, change_rows=lambda rows: rows.reverse())
        first, second = study.load().trials
        assert first.rows["test"].questions is second.rows["test"].questions

    def test_without_log_odds_are_read(self, study: Study) -> None:
        study.trial("sft", 0, change_rows=drop("gold_logit"))
        rows = study.load().trials[0].rows["test"]
        assert np.isnan(rows.gold_logit).all()
        assert len(rows.gold_logit) == 24

    def test_responses_that_went_away_are_named(self, study: Study) -> None:
        study.trial("sft", 0)
        results = study.load()
        (file,) = study.store.root.glob("evaluation/*/evaluation.parquet")
        file.unlink()
        with pytest.raises(UserError, match=r"evaluation\.parquet.*start it again"):
            list(results.trials[0].rows["test"].responses)


A, B = "test-0000", "test-0001"


class TestCheckpoints:
    @staticmethod
    def write(folder: Path, **changed: list[Any]) -> None:
        # Two prompts; the first has two samples, and counts once.
        table: dict[str, list[Any]] = {
            "checkpoint": [2, 1, 1, 1], "step": [8, 4, 4, 4], "fraction": [1.0, 0.5, 0.5, 0.5],
            "split": ["test"] * 4, "prompt_id": [A, A, A, B], "sample": [0, 0, 1, 0],
            "gold": [0.5, 0.2, 0.4, 0.9], "proxy": [1.0, 2.0, 4.0, 1.0], "kl": [3.0, 1.0, 1.0, 4.0],
            "length": [5, 5, 5, 5],
        }  # fmt: skip
        pq.write_table(pa.table(table | changed), folder / "checkpoints.parquet")

    def trial(self, study: Study, **changed: list[Any]) -> StudyResults:
        rows = pa.Table.from_pylist(study.rows("ppo", 0))

        def write(folder: Path) -> None:
            pq.write_table(rows, folder / "evaluation.parquet")
            self.write(folder, **changed)

        with_evaluation(study, 0, write)
        return study.load()

    def test_are_means_over_prompts_by_step(self, study: Study) -> None:
        first, second = self.trial(study).trials[0].checkpoints
        assert first == Checkpoint(
            "test", 1, 4, 0.5, kl=2.5, gold=pytest.approx(0.6), proxy=2.0, prompt_ids=frozenset((A, B))
        )
        assert second == Checkpoint("test", 2, 8, 1.0, kl=3.0, gold=0.5, proxy=1.0, prompt_ids=frozenset((A,)))

    def test_are_none_where_there_is_no_file(self, study: Study) -> None:
        study.trial("sft", 0)
        assert study.load().trials[0].checkpoints == ()

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"gold": [0.5, float("nan"), 0.4, 0.9]}, "split test: gold of prompt test-0000 is nan at checkpoint 1"),
            ({"gold": [0.5, None, 0.4, 0.9]}, "gold is missing in 1 of 4 rows"),
            ({"gold": ["high"] * 4}, "a column has the wrong type"),
            ({"kl": [float("inf"), 1.0, 1.0, 4.0]}, "kl of prompt test-0000 is inf at checkpoint 2"),
            ({"gold": [0.5, 0.2, 1.4, 0.9]}, "split test: gold of prompt test-0000 is 1.4 at checkpoint 1"),
            ({"proxy": [1.0, float("nan"), 4.0, 1.0]}, "proxy of prompt test-0000 is nan"),
            ({"step": [None, 4, 4, 4]}, "step is missing in 1 of 4 rows"),
            ({"step": ["late"] * 4}, "a column has the wrong type"),
            ({"sample": [0, 0, 0, 0]}, "some rows are there twice"),
            ({"prompt_id": [A, A, A, "b"]}, "split test: prompt b is not in the final test"),
        ],
    )
    def test_that_cannot_be_used_are_left_out_and_told(self, study: Study, changed: dict[str, Any], words: str) -> None:
        results = self.trial(study, **changed)
        (trial,), (warning,) = results.trials, results.warnings
        assert trial.checkpoints == ()
        assert warning.startswith("the points of training of ppo/seed-0 are left out: checkpoints.parquet: ")
        assert words in warning
        summary = summarise(results)
        assert summary["warnings"] == [warning]
        assert [point["final"] for point in summary["frontier"]["ppo"]] == [True]

    @pytest.mark.parametrize("damage", ["unreadable", "columns"])
    def test_of_a_file_that_is_none_are_left_out_and_told(self, study: Study, damage: str) -> None:
        def write(folder: Path) -> None:
            pq.write_table(pa.Table.from_pylist(study.rows("ppo", 0)), folder / "evaluation.parquet")
            if damage == "unreadable":
                (folder / "checkpoints.parquet").write_bytes(b"PAR1 nonsense PAR1")
            else:
                pq.write_table(pa.table({"step": [1]}), folder / "checkpoints.parquet")

        with_evaluation(study, 0, write)
        results = study.load()
        words = {"unreadable": "cannot be read", "columns": "has no column checkpoint, fraction, gold"}
        assert f"ppo/seed-0 are left out: checkpoints.parquet {words[damage]}" in results.warnings[0]
        assert len(results.trials) == 1

    def test_without_a_verdict_on_a_response_are_means_over_the_others(self, study: Study) -> None:
        results = self.trial(study, proxy=[1.0, 2.0, None, 1.0])
        assert results.warnings == ()
        assert [point.proxy for point in results.trials[0].checkpoints] == [pytest.approx(1.5), 1.0]

    def test_without_a_reward_model_have_no_proxy(self, study: Study) -> None:
        results = self.trial(study, proxy=[None] * 4)
        assert [np.isnan(point.proxy) for point in results.trials[0].checkpoints] == [True, True]
        assert results.warnings == ()


def test_training_that_was_killed_and_went_on_counts_whole(study: Study) -> None:
    resumed = study.stage("policy", arm="ppo", resumed=True, metrics={COST: {"seconds_training": 500.0}})
    study.trial("ppo", 0, change=lambda record: record["stages"].update(policy=resumed))
    (trial,) = study.load().trials
    assert trial.stages["policy"].seconds == 500.0
    assert trial.stages["evaluation"].seconds < 100


def test_a_proxy_that_is_lost_is_no_study_without_a_reward_model(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    study.trial("ppo", 1, change_rows=set_all(proxy=float("nan")))
    results = study.load()
    assert seeds(results) == {"ppo": [0], "sft": [0, 1]}
    (left,) = results.failed
    assert left.folder == "ppo/seed-1"
    assert "split ood: proxy is NaN throughout, while the trial has a reward model" in left.error


def test_trials_that_run_or_were_killed_are_told_without_a_plan(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=1)
    for seed in (1, 2):
        (study.folder / "ppo" / f"seed-{seed}").mkdir()
    (study.folder / "ppo" / "seed-0" / LOCK).touch()  # it has its record
    (study.folder / "ppo" / "seed-1" / LOCK).touch()  # what a killed process leaves
    tuning = study.folder / "tuning" / "ppo" / "trial-000" / "seed-0"
    tuning.mkdir(parents=True)
    (study.folder / "shared" / "ppo-candidates").mkdir(parents=True)
    for folder in (tuning, study.folder / "shared" / "ppo-candidates"):
        (folder / LOCK).touch()
    with at_work(study.folder / "ppo" / "seed-2"):
        assert study.load().warnings == (
            "ppo/seed-1 has no record: ended early, or not run to its final test", "ppo/seed-2 is running",
        )  # fmt: skip


def test_what_made_the_results_is_told_and_several_commits_are_warned_of(study: Study) -> None:
    machine = {"system": "Linux 6", "architecture": "x86_64", "processor": "A", "cores": 2, "memory_bytes": None}
    first, second = ({"commit": letter * 40, "dirty": letter == "b", "machine": machine} for letter in "ab")
    for seed, made in enumerate((first, first, second)):
        study.trial("ppo", seed, change=lambda record, made=made: record.update(made=made))
    study.trial("sft", 0)  # a record from before
    results = study.load()
    summary = summarise(results)
    assert summary["environment"]["results"]["by"] == [first, second]
    warning = f"the results were made by several commits of rft: {'a' * 12} and {'b' * 12}, with changes of its own"
    assert warning in render(results, summary)
    assert f"> - {escape(warning)}" in markdown(summary)
    (study.folder / "ppo" / "seed-2" / "trial.json").unlink()
    assert "several commits" not in markdown(summarise(study.load()))


def test_a_large_study_is_loaded_whole(tmp_path: Path) -> None:
    study = LargeStudy(tmp_path, arms=6, seeds=2, prompts=16).make()
    results = study.load()
    assert seeds(results) == {arm: [0, 1] for arm in sorted(study.arms)}
    assert not results.failed
    summary = summarise(results)
    golds = [summary["arms"][arm]["splits"]["test"]["gold"]["mean"] for arm in study.arms]
    assert golds[0] < golds[3] < golds[5]
