"""`rft compare` on what is there: half-done studies, several together, what --strict refuses, where the report goes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import unstyle
from rich.console import Console
from typer.testing import CliRunner

from rft.cli.app import app
from rft.cli.compare import Options, compare_studies
from rft.config import compose
from rft.errors import UserError
from rft.store import store
from rft.store.running import at_work, is_running
from rft.study import forks, jobs
from rft.study.executors.local import SWITCH
from rft.study.parts import plain
from rft.study.standing import standing, told
from rft.study.study import StudySpec, load_study, plan
from rft.study.tuned import kept
from rft.study.tuning import fair_tuning, with_overrides
from tests.architecture.source import ROOT
from tests.synthetic_study import Rows, Study

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to compare in, with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    return tmp_path


def compare(*studies: str, out: Path | None = None, strict: bool = False) -> dict[str, Any]:
    """The summary that comparing without running anything writes."""
    compare_studies(studies, Options(out=out, run=False, strict=strict))
    written = out or Path("runs") / "+".join(Path(study).name for study in studies)
    assert (written / "report.html").is_file()
    summary: dict[str, Any] = json.loads((written / "summary.json").read_text(encoding="utf-8"))
    return summary


def refused(*studies: str, **options: Any) -> str:
    """The one line of a comparison that writes nothing."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as caught:
        compare(*studies, **options)
    assert sorted(path for path in Path().rglob("*") if "locks" not in path.parts) == [
        path for path in before if "locks" not in path.parts
    ]
    (line,) = str(caught.value).splitlines()
    return line


def planned(world: Path, arms: tuple[str, ...] = ("sft", "ppo"), seeds: int = 3) -> Change:
    """Write `demo/study.yaml`; returns what makes a trial's record one of that plan."""
    overrides = ["model=tiny"]
    spec = {"overrides": overrides, "arms": {arm: [f"algorithm={arm}"] for arm in arms}, "seeds": list(range(seeds))}
    (world / "demo").mkdir()
    (world / "demo" / "study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")

    def change(record: dict[str, Any]) -> None:
        cfg = compose([*overrides, f"algorithm={record['arm']}", f"seed={record['seed']}", f"arm={record['arm']}"])
        record["config"] = plain(cfg)

    return change


class TestHalfDone:
    def test_compares_what_is_there_and_says_what_is_not(self, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study, change = Study(world), planned(world, ("sft", "ppo", "dpo"))
        for arm, seed in (("sft", 0), ("sft", 1), ("ppo", 0), ("ppo", 1)):
            study.trial(arm, seed, change=change)
        study.trial("dpo", 0, change=lambda r: r.update(status="failed", error="loss is NaN at step 7"))
        (study.folder / "ppo" / "seed-2").mkdir()
        with at_work(study.folder / "ppo" / "seed-2"):
            summary = compare("demo")
        assert summary["incomplete"] == {
            "planned": 9, "finished": 4, "running": [{"arm": "ppo", "seed": 2}],
            "missing": [{"arm": "sft", "seed": 2}, {"arm": "dpo", "seed": 1}, {"arm": "dpo", "seed": 2}],
        }  # fmt: skip
        sentence = (
            "4 of 9 planned trials have finished; running: ppo seed 2; "
            "not there: sft seed 2, dpo seed 1, dpo seed 2; failed: 1"
        )
        assert summary["warnings"] == [sentence, "arm dpo is in no number: its only trial is left out"]
        # Once: as a warning.
        for name in ("report.html", "report.md"):
            text = (
                Path("runs", "demo", name).read_text(encoding="utf-8").partition('<script type="application/json"')[0]
            )
            assert text.count("4 of 9 planned trials") == 1
            assert text.count("finished") == 1
        assert summary["failed"][0]["error"] == "loss is NaN at step 7"
        assert summary["arms"]["ppo"]["seeds"] == [0, 1]
        said = capsys.readouterr().out
        assert f"warning: {sentence}" in said.splitlines()
        assert "left out: dpo/seed-0: loss is NaN at step 7" in said

    def test_by_its_name_alone_has_no_plan_to_be_held_against(self, world: Path) -> None:
        Study(world).fill(("sft", "ppo"), seeds=2)
        summary = compare("demo")
        assert (summary["incomplete"], summary["warnings"]) == (None, [])

    def test_that_is_done_is_not_incomplete(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=2)
        for arm in ("sft", "ppo"):
            for seed in range(2):
                study.trial(arm, seed, change=change)
        summary = compare("demo", strict=True)
        assert (summary["incomplete"], summary["warnings"], summary["failed"]) == (None, [], [])

    def test_of_which_nothing_is_there_is_refused(self, world: Path) -> None:
        planned(world)
        assert "no study in runs/demo" in refused("demo")

    def test_trials_of_an_arm_that_was_changed_since_are_left_out(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=2)

        def older(record: dict[str, Any]) -> None:
            change(record)
            record["config"]["algorithm"]["lr"] = 0.5

        for seed in range(2):
            study.trial("sft", seed, change=change)
            study.trial("ppo", seed, change=older)
        summary = compare("demo")
        assert list(summary["arms"]) == ["sft"]
        assert "algorithm.lr=0.5 is not what the study.yaml has now" in summary["failed"][0]["error"]

    def test_a_setting_of_another_release_is_no_change(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=1)

        def older(record: dict[str, Any]) -> None:
            change(record)
            del record["config"]["algorithm"]["lr"]
            record["config"]["gone"] = 1

        study.trial("sft", 0, change=change)
        study.trial("ppo", 0, change=older)
        assert list(compare("demo")["arms"]) == ["sft", "ppo"]

    def test_trials_outside_the_plan_do_not_count(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=1)
        for arm in ("sft", "ppo", "dpo"):
            study.trial(arm, 0, change=change)
        assert list(compare("demo")["arms"]) == ["sft", "ppo"]

    def test_a_folder_of_trials_elsewhere_is_compared_where_it_lies(
        self, world: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Study(world / "old").fill(("sft", "ppo"), seeds=2)
        monkeypatch.setenv("RFT_STORE", str(world / "old" / "store"))
        compare_studies(["old/runs/demo"], Options())
        assert Path("old/runs/demo/report.html").is_file()


class TestTuned:
    """A study whose arms were tuned by one trial each: `ppo` has a winner, `dpo` has none."""

    @pytest.fixture
    def study(self, world: Path) -> Study:
        overrides = ["model=tiny", "sweep.trials=1"]
        arms = {arm: [f"algorithm={arm}"] for arm in ("sft", "ppo", "dpo")}
        spec = {"overrides": overrides, "arms": arms, "seeds": [0], "sweep": "fair_tuning"}
        (world / "demo").mkdir()
        (world / "demo" / "study.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        study = Study(world)
        study.trial("sft", 0, change=self.run_with("sft"))
        return study

    def run_with(self, arm: str, *more: str) -> Change:
        config = plain(compose(["model=tiny", f"algorithm={arm}", *more]))
        return lambda record: record.update(config=config)

    def tuned(self, world: Path, **winners: dict[str, Any] | None) -> None:
        """Leave what tuning leaves."""
        _, found = fair_tuning("demo", load_study(world / "demo")[1], world / "runs")
        assert found is not None
        for name, settings in winners.items():
            arm = found.arms[name]
            value, error = (None, "the loss is nan") if settings is None else (0.5, None)
            used = {"seconds": 60.0, "generated_tokens": 12_000.0, "money": 0.25}
            seed = {"seed": 1000, "value": value, "error": error, "stages": {"policy": {"key": "k", "used": used}}}
            arm.trials.append(kept(0, settings or {}, {"value": value, "share": 1.0, "seeds": [seed]}))
            found._write(arm)
        found._winners(Console(quiet=True))

    def test_shows_what_was_tuned_what_it_cost_and_which_arm_has_no_winner(self, world: Path, study: Study) -> None:
        self.tuned(world, ppo={"lr": 0.002}, dpo=None)
        study.trial("ppo", 0, change=self.run_with("ppo", "algorithm.lr=0.002"))
        summary = compare("demo")
        why = "all 1 tuning trials failed, so it has no winner; the first: the loss is nan"
        assert set(summary["tuning"]["arms"]) == {"ppo", "dpo"}
        assert [(one["arm"], one["seed"], one["error"]) for one in summary["failed"]] == [("dpo", 0, why)]
        assert summary["incomplete"]["missing"] == []
        assert list(summary["arms"]) == ["sft", "ppo"]
        folder = Path("runs/demo")
        assert re.search(rf"left out: dpo-s0-[0-9a-f]{{8}}: {why}", (folder / "report.md").read_text(encoding="utf-8"))
        rows = [
            x.split(" | ") for x in (folder / "report.md").read_text(encoding="utf-8").splitlines() if "in all" in x
        ]
        assert [(row[0], row[3], row[6]) for row in rows] == [
            ("| ppo", "12.0 k", "1 min 00 s"),
            ("| dpo", "12.0 k", "1 min 00 s"),
        ]
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count("tuning, in all") == 2
        assert f'<td class="wrap">{why}</td>' in page
        assert ", tuning 2 min 00 s of training besides" in summary["cost"]["sentence"]

    @pytest.mark.slow
    def test_settings_that_tuning_chose_may_differ_from_the_study_and_no_others(
        self, world: Path, study: Study
    ) -> None:
        self.tuned(world, ppo={"lr": 0.002})
        study.trial("ppo", 0, change=self.run_with("ppo", "algorithm.lr=0.002"))
        assert list(compare("demo")["arms"]) == ["sft", "ppo"]
        study.trial("ppo", 0, change=self.run_with("ppo", "algorithm.lr=0.002", "algorithm.iterations=77"))
        summary = compare("demo")
        assert list(summary["arms"]) == ["sft"]
        assert "algorithm.iterations=77 is not what the study.yaml has now" in summary["failed"][-1]["error"]

    @pytest.mark.slow
    @pytest.mark.parametrize("override", ["sweep=none", "sweep.trials=0"])
    def test_the_tuning_of_before_is_not_told_of_a_study_that_is_not_tuned_now(
        self, world: Path, study: Study, override: str
    ) -> None:
        default = compose(["model=tiny", "algorithm=ppo"]).algorithm.lr
        self.tuned(world, ppo={"lr": default})
        study.trial("ppo", 0, change=self.run_with("ppo"))
        assert set(compare("demo")["tuning"]["arms"]) == {"ppo"}
        compare_studies(["demo", override], Options(run=False, out=Path("out")))
        summary = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
        assert (summary["tuning"], list(summary["arms"])) == (None, ["sft", "ppo"])


class TestRunning:
    def test_ends_with_the_process(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")
        started, go_on = context.Event(), context.Event()
        process = context.Process(target=_work, args=(tmp_path, started, go_on))
        process.start()
        assert started.wait(30)
        assert is_running(tmp_path)
        process.kill()
        process.join()
        assert not is_running(tmp_path)

    def test_ends_with_the_block(self, tmp_path: Path) -> None:
        assert not is_running(tmp_path)
        with at_work(tmp_path):
            assert is_running(tmp_path)
        assert not is_running(tmp_path)

    def test_many_missing_trials_are_counted(self, tmp_path: Path) -> None:
        jobs = plan(
            "s", StudySpec(overrides=["model=tiny"], arms={"a": ["algorithm=sft"]}, seeds=list(range(9))), tmp_path
        )
        state = standing(jobs)
        assert state is not None
        assert told(state) == (
            "0 of 9 planned trials have finished; not there: a seed 0, a seed 1, a seed 2, a seed 3, 5 more"
        )


def _work(folder: Path, started: Any, go_on: Any) -> None:
    with at_work(folder):
        started.set()
        go_on.wait(60)


class TestStrict:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"change": lambda r: r.update(status="failed", error="Traceback\n at\nKeyError: 'x'")}, "KeyError: 'x'"),
            ({"change_rows": lambda rows: rows.pop()}, "split ood lacks 1 of 24 rows"),
            ({"change_rows": lambda rows: rows.append(rows[0])}, "is there twice"),
            ({"change_rows": lambda rows: rows[0].update(gold=float("nan"))}, "gold of prompt test-0000 is nan"),
            ({"change": lambda r: r.pop("stages")}, "lacks stages"),
        ],
    )
    def test_a_trial_that_would_be_left_out_is_refused(self, world: Path, change: dict[str, Any], words: str) -> None:
        study = Study(world).fill(("sft", "ppo"), seeds=2)
        study.trial("ppo", 2, **change)
        line = refused("demo", strict=True)
        assert line.startswith("not compared, by --strict: 1 trials left out, 0 warnings; the first: ppo/seed-2: ")
        assert words in line
        assert compare("demo")["failed"]

    def test_a_tie_is_refused(self, world: Path) -> None:
        study = Study(world)
        study.trial("ppo", 0)
        study.trial("dpo", 0, change_rows=lambda rows: rows.pop())
        assert "1 trials left out, 2 warnings" in refused("demo", strict=True)

    def test_a_half_done_study_is_refused(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=2)
        for arm, seed in (("sft", 0), ("sft", 1), ("ppo", 0)):
            study.trial(arm, seed, change=change)
        line = refused("demo", strict=True)
        assert "1 warnings; the first: 3 of 4 planned trials have finished; not there: ppo seed 1" in line

    def test_arms_that_did_not_start_alike_are_refused(self, world: Path) -> None:
        study = Study(world).fill(("sft",), seeds=2)
        for seed in range(2):
            study.trial("ppo", seed, start="another model")
        assert "did not start alike" in refused("demo", strict=True)

    def test_points_of_training_that_would_be_left_out_are_refused(self, world: Path) -> None:
        study = Study(world, checkpoints=2).fill(("sft", "ppo"), seeds=2)
        study.trial("ppo", 2, change_points=lambda rows: rows[3].update(gold=float("nan")))
        line = refused("demo", strict=True)
        assert "0 trials left out, 1 warnings; the first: the points of training of ppo/seed-2 are left out: " in line
        summary = compare("demo")
        assert summary["arms"]["ppo"]["seeds"] == [0, 1, 2]
        assert len(summary["frontier"]["ppo"]) == 2 * 3 + 1
        page = Path("runs", "demo", "report.html").read_text(encoding="utf-8")
        assert "the points of training of ppo/seed-2 are left out: checkpoints.parquet: split test: gold of" in page

    def test_a_flawless_study_is_compared(self, world: Path) -> None:
        Study(world).fill(("sft", "ppo"), seeds=2)
        assert compare("demo", strict=True)["arms"].keys() == {"sft", "ppo"}


def tuned(study: Study, arm: str, best: float, trials: int = 2) -> None:
    """Leave what tuning leaves; its winner has to be what the arm runs with."""
    used = {"policy": {"key": f"{arm}{best}", "seconds": 3.0, "used": {"prompts": 5.0, "seconds": 3.0}}}
    seeds = [{"seed": 9, "error": None, "stages": used}]
    trial = {"settings": {"lr": 1e-4}, "value": best, "seed": 9, "seeds": seeds}
    record = {
        "arm": arm, "budget": trials, "objective": "gold", "split": "validation", "sampler": "tpe",
        "trials": [trial | {"number": number} for number in range(trials)],
        "best_so_far": [best] * trials, "winner": {"lr": 1e-4}, "space": {"lr": [1e-5, 1e-3]},
    }  # fmt: skip
    (study.folder / "tuning").mkdir(parents=True, exist_ok=True)
    (study.folder / "tuning" / f"{arm}.json").write_text(json.dumps(record), encoding="utf-8")


def with_lr(lr: float, **more: Any) -> Change:
    return lambda record: record["config"].update(algorithm={"lr": lr, **more})


class TestTuning:
    def test_of_several_studies_is_kept_under_the_names_that_the_arms_have(self, world: Path) -> None:
        first, other = Study(world), second(world)
        for seed in range(2):
            first.trial("sft", seed)
            first.trial("ppo", seed, change=with_lr(1e-4))
            first.trial("rlaif", seed, change=with_lr(1e-4))
            other.trial("ppo", seed, change=with_lr(1e-4, clip_range=0.1))
            other.trial("rlaif", seed + 2, change=with_lr(1e-4))
            other.trial("dpo", seed, change_rows=lambda rows: rows.pop())
        for study, best in ((first, 0.6), (other, 0.7)):
            for arm in ("ppo", "rlaif", "dpo"):
                tuned(study, arm, best)
        summary = compare("demo", "more")
        assert set(summary["arms"]) == {"sft", "demo/ppo", "more/ppo", "rlaif"}
        tuning = summary["tuning"]
        # One arm in both studies has the first's; one of which nothing is left has none.
        best = {arm: record["best_so_far"] for arm, record in tuning["arms"].items()}
        assert best == {"demo/ppo": [0.6, 0.6], "more/ppo": [0.7, 0.7], "rlaif": [0.6, 0.6]}
        assert {arm: cost["prompts"] for arm, cost in tuning["cost"].items()} == dict.fromkeys(best, 5.0)
        assert (tuning["budget"], tuning["objective"], tuning["split"]) == (2, "gold", "validation")
        assert "rlaif was tuned in several studies: that of more is not shown" in summary["warnings"]
        assert "demo/ppo" in Path("runs/demo+more/report.html").read_text(encoding="utf-8").partition('id="tuning"')[2]

    def test_with_another_budget_is_told(self, world: Path) -> None:
        first, other = Study(world), second(world)
        for seed in range(2):
            first.trial("sft", seed)
            first.trial("ppo", seed, change=with_lr(1e-4))
            other.trial("dpo", seed, change=with_lr(1e-4))
        tuned(first, "ppo", 0.6)
        tuned(other, "dpo", 0.7, trials=9)
        summary = compare("demo", "more")
        assert summary["tuning"]["budget"] is None
        assert summary["tuning"]["objective"] == "gold"
        assert summary["warnings"] == [
            "demo and more did not tune alike (budget differ): differences between their arms may be due to tuning"
        ]
        page = Path("runs/demo+more/report.html").read_text(encoding="utf-8")
        assert "Every algorithm had the same budget" not in page
        assert "The studies gave their algorithms other budgets of trials; each was judged by gold on the" in page

    def test_of_one_study_alone_is_told(self, world: Path) -> None:
        first, other = Study(world), second(world)
        for seed in range(2):
            first.trial("sft", seed)
            other.trial("sft", seed)
            first.trial("ppo", seed, change=with_lr(1e-4))
            other.trial("dpo", seed, change=with_lr(1e-4))
        assert compare("demo", "more")["tuning"] is None
        tuned(first, "ppo", 0.6)
        assert compare("demo", "more")["warnings"] == ["dpo of more ran untuned, others with what tuning found"]


def second(world: Path, name: str = "more") -> Study:
    """Another study with the same store."""
    return Study(world, name=name)


class TestSeveral:
    def test_arms_that_were_run_alike_are_one(self, world: Path) -> None:
        """The control is the same trial in both; ppo has other seeds in each."""
        first, other = Study(world), second(world)
        for seed in range(2):
            first.trial("sft", seed)
            other.trial("sft", seed)
            first.trial("ppo", seed)
            other.trial("ppo", seed + 2)
            other.trial("dpo", seed)
        summary = compare("demo", "more", strict=True)
        assert {arm: record["seeds"] for arm, record in summary["arms"].items()} == {
            "sft": [0, 1], "dpo": [0, 1], "ppo": [0, 1, 2, 3],
        }  # fmt: skip
        assert (summary["study"], summary["control"], summary["warnings"]) == ("demo + more", "sft", [])

    def test_arms_of_one_name_with_other_settings_are_told_apart(self, world: Path) -> None:
        first, other = Study(world), second(world)
        for seed in range(2):
            first.trial("sft", seed)
            first.trial("ppo", seed)
            other.trial("ppo", seed, change=lambda r: r["config"].update(algorithm={"lr": 1e-4}))
        assert list(compare("demo", "more", strict=True)["arms"]) == ["sft", "demo/ppo", "more/ppo"]

    def test_a_seed_that_came_out_in_two_ways_tells_arms_apart(self, world: Path) -> None:
        first, other = Study(world), second(world)
        first.trial("sft", 0)
        first.trial("ppo", 0)
        other.trial("ppo", 0, change_rows=lambda rows: rows[0].update(gold=0.1))
        assert list(compare("demo", "more")["arms"]) == ["sft", "demo/ppo", "more/ppo"]

    def test_stages_that_are_not_shared_are_named(self, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, other = Study(world).fill(("sft", "ppo"), seeds=2), second(world)
        for arm in ("sft", "dpo"):
            for seed in range(2):
                other.trial(arm, seed, start="another model")
        summary = compare("demo", "more")
        warning = (
            "more and demo do not share sft, candidates, preferences and reward_model: "
            "differences between their arms are not due to the algorithm alone"
        )
        assert summary["warnings"] == [warning]
        assert f"warning: {warning}" in capsys.readouterr().out.splitlines()
        assert set(summary["arms"]) == {"demo/sft", "ppo", "more/sft", "dpo"}
        assert not summary["started_alike"]
        assert first.folder.is_dir()
        assert f"1 warnings; the first: {warning}" in refused("demo", "more", strict=True)

    def test_another_reward_model_of_the_same_feedback_is_named_and_another_feedback_is_not(self, world: Path) -> None:
        def another(record: dict[str, Any]) -> None:
            record["stages"]["reward_model"]["key"] = "a" * 64

        first, other = Study(world), second(world)
        first.trial("sft", 0)
        other.trial("sft", 0)
        other.trial("rlaif", 0)
        assert compare("demo", "more")["warnings"] == []
        other.trial("ppo", 0, change=another)
        (warning,) = compare("demo", "more")["warnings"]
        assert warning.startswith("more and demo do not share reward_model: ")

    def test_other_evaluation_settings_are_named(self, world: Path) -> None:
        first, other = Study(world), second(world)
        first.trial("sft", 0, change=lambda r: r["config"].update(evaluation={"temperature": 1.0}))
        other.trial("ppo", 0, change=lambda r: r["config"].update(evaluation={"temperature": 0.7}))
        (warning,) = compare("demo", "more")["warnings"]
        assert warning.startswith("more and demo do not share evaluation settings: ")

    def test_a_study_with_other_questions_is_left_out_by_name(self, world: Path) -> None:
        def other_questions(rows: Rows) -> None:
            for row in rows:
                row["prompt"] = "Another " + row["prompt"]

        Study(world).fill(("sft", "ppo"), seeds=2)
        second(world).trial("dpo", 0, change_rows=other_questions)
        summary = compare("demo", "more")
        assert list(summary["arms"]) == ["sft", "ppo"]
        assert [failed["trial"] for failed in summary["failed"]] == ["more/dpo/seed-0"]
        assert "other texts under the same prompt ids" in summary["failed"][0]["error"]
        assert "arm dpo is in no number: its only trial is left out" in summary["warnings"]

    def test_the_splits_that_all_have_are_compared(self, world: Path) -> None:
        Study(world).fill(("sft", "ppo"), seeds=2)
        other = second(world)
        for seed in range(2):
            other.trial("dpo", seed, change_rows=lambda rows: rows.__delitem__(slice(24, None)))
        summary = compare("demo", "more")
        assert summary["splits"] == ["test"]
        assert list(summary["arms"]) == ["sft", "dpo", "ppo"]
        assert "not all studies have the split ood of demo: test is compared" in summary["warnings"]

    def test_failed_trials_and_missing_ones_are_named_with_their_study(self, world: Path) -> None:
        study, change = Study(world), planned(world, seeds=2)
        for arm, seed in (("sft", 0), ("sft", 1), ("ppo", 0)):
            study.trial(arm, seed, change=change)
        other = second(world)
        other.trial("dpo", 0, change=change)
        other.trial("dpo", 1, change_rows=lambda rows: rows.pop())
        other.trial("dpo", 2, change=change)
        summary = compare("demo", "more")
        assert summary["incomplete"]["missing"] == [{"arm": "demo/ppo", "seed": 1}]
        assert [failed["trial"] for failed in summary["failed"]] == ["more/dpo/seed-1"]
        assert "demo: 3 of 4 planned trials have finished; not there: ppo seed 1" in summary["warnings"]


class TestStartedEarly:
    """What trials are forked from is started before a study is planned, of which here the planning fails."""

    @pytest.fixture(autouse=True)
    def told(self, world: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What becomes of it."""
        told: list[str] = []

        class Forks:
            def __init__(self) -> None:
                told.append("started")

            def close(self) -> None:
                told.append("ended")

        monkeypatch.setattr(forks, "Forks", Forks)
        monkeypatch.setattr(jobs, "GPUS", ())
        planned(world)
        return told

    @staticmethod
    def refused(*more: str, **options: Any) -> None:
        with pytest.raises(UserError):
            compare_studies(["demo", "nosuch", *more], Options(**options))

    def test_for_a_new_study_and_ended_when_it_is_refused(self, told: list[str]) -> None:
        self.refused()
        assert told == ["started", "ended"]

    @pytest.mark.parametrize("options", [{"run": False}, {"launcher": "ray"}], ids=["not run", "elsewhere"])
    def test_not_for_trials_that_start_elsewhere_or_not_at_all(self, told: list[str], options: dict[str, Any]) -> None:
        self.refused(**options)
        self.refused("hydra.launcher.jobs=1")
        assert told == []

    def test_not_for_a_study_of_which_there_is_something(self, told: list[str], world: Path) -> None:
        Study(world, name="demo").trial("sft", 0)
        self.refused()
        assert told == []

    def test_not_where_no_trial_is_forked(self, told: list[str], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "GPUS", (str(world),))
        self.refused()
        monkeypatch.setattr(jobs, "GPUS", ())
        monkeypatch.setenv(SWITCH, "0")
        self.refused()
        assert told == []


class TestBeforeAnythingRuns:
    """`base` has a study.yaml, of which nothing has run, and would run if nothing were refused."""

    @pytest.fixture(autouse=True)
    def base(self, world: Path) -> Path:
        planned(world)
        return (world / "demo").rename(world / "base")

    def refused(self, *studies: str, out: Path | None = None) -> str:
        before = sorted(Path().rglob("*"))
        with pytest.raises(UserError) as caught:
            compare_studies(studies, Options(out=out))
        assert sorted(Path().rglob("*")) == before
        (line,) = str(caught.value).splitlines()
        return line

    def test_every_name_is_checked(self) -> None:
        assert self.refused("base", "nosuch") == "nosuch: there is no such study; valid are base"
        Path("runs", "empty").mkdir(parents=True)
        assert "no trial has ended in runs/empty" in self.refused("base", "empty")

    def test_a_mistyped_name_gets_what_to_write(self, world: Path) -> None:
        assert self.refused("bsae") == "bsae: there is no such study; did you mean 'base'?"
        Path("experiments").mkdir()
        Path("base").rename("experiments/base")
        for given in ("bsae", "base", "experiments/bsae"):
            assert self.refused(given) == f"{given}: there is no such study; did you mean 'experiments/base'?"
        assert self.refused("bsae", "sweep.trials=4").endswith("did you mean 'experiments/base'?")
        Study(world, name="base").trial("sft", 0)
        assert self.refused("bsae") == "bsae: there is no such study; did you mean 'base'?"
        assert self.refused("experiments/bsae").endswith("did you mean 'experiments/base'?")

    def test_a_name_with_nothing_near_it_gets_what_to_give(self) -> None:
        Path("base/study.yaml").unlink()
        assert self.refused("bsae").endswith("give a folder with a study.yaml, or make trials first, with rft run -m")

    @pytest.mark.parametrize("out", ["file", "file/below", "file/below/further", "nowhere", "nowhere/below"])
    def test_an_out_that_can_be_no_folder_is_refused(self, world: Path, out: str) -> None:
        Path("file").touch()
        Path("nowhere").symlink_to(world / "gone")
        place = world / out.partition("/")[0]
        assert self.refused("base", out=Path(out)) == (
            f"the report cannot be written to {out}: {place} is no folder; choose another with --out DIR"
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_an_out_that_may_not_be_written_is_refused(self) -> None:
        Path("locked").mkdir(mode=0o500)
        for out in (Path("locked"), Path("locked/below")):
            assert "locked is not writable; choose another with --out DIR" in self.refused("base", out=out)


class TestCorrupt:
    @pytest.mark.parametrize("strict", [False, True])
    def test_an_evaluation_is_named_and_nothing_is_moved(self, world: Path, strict: bool) -> None:
        study = Study(world).fill(("sft", "ppo"), seeds=2)
        key = json.loads(study.trial("ppo", 2).read_text(encoding="utf-8"))["evaluation"][:16]
        file = world / "store" / "evaluation" / key / "evaluation.parquet"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        store._verified.clear()  # another process has checked no sums yet
        words = "its evaluation is corrupt: evaluation.parquet does not match its sha256 "
        if strict:
            assert words in refused("demo", strict=True)
        else:
            assert words in compare("demo")["failed"][0]["error"]
        assert file.read_bytes() == content
        assert not (world / "store" / "quarantine").exists()


def test_an_override_takes_the_place_of_the_studys_and_leaves_what_an_arm_sets(world: Path) -> None:
    """As docs/tuning.md and `rft compare --help` say."""
    spec = StudySpec(overrides=["seed=1", "sft.epochs=2"], arms={"a": ["algorithm=sft"], "b": ["sft.epochs=3"]})
    given = with_overrides(spec, ["sft.epochs=4"])
    assert given.overrides == ["seed=1", "sft.epochs=4"]
    found = plan("s", replace(given, overrides=["model=tiny", *given.overrides[1:]], seeds=[0]), world).settings
    assert {folder.name.partition("-")[0]: cfg["sft"]["epochs"] for folder, cfg in found.items()} == {"a": 4, "b": 3}
    page = " ".join((ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").split())
    helped = " ".join(unstyle(CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "300"}).output).split())
    for text in (page, helped):
        assert re.search(r"in place of what `overrides:` of its `?study\.yaml`? sets the same", text)


class TestWhereItGoes:
    def test_of_several_studies_beside_them_or_where_it_is_told(self, world: Path) -> None:
        Study(world).fill(("sft",), seeds=2)
        second(world).fill(("ppo",), seeds=2)
        compare("demo", "more")
        assert sorted(path.name for path in (world / "runs" / "demo+more").iterdir()) == [
            "figures",
            "report.html",
            "report.md",
            "summary.json",
        ]
        compare("demo", "more", out=world / "elsewhere")
        assert not list((world / "runs" / "demo").glob("report.html"))

    def test_a_study_given_twice_is_refused(self, world: Path) -> None:
        Study(world).fill(("sft",), seeds=1)
        assert "study demo is given twice" in refused("demo", "runs/demo")

    def test_a_studys_own_folder_is_not_written_over(self, world: Path) -> None:
        for name in ("a", "b", "a+b"):
            second(world, name).fill(("sft",), seeds=1)
        assert "is the folder of a study; say where the report goes with --out" in refused("a", "b")

    def test_a_name_that_no_folder_can_have_is_refused(self, world: Path) -> None:
        names = [letter * 50 for letter in "abc"]
        for name in names:
            second(world, name).fill(("sft",), seeds=1)
        assert "--out DIR" in refused(*names)
