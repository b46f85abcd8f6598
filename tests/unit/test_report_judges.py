"""What the report says of judges: their audits, excluded labels, gold against the quality of labels, scores."""

from __future__ import annotations

import copy
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rft.cli import judge_table
from rft.evaluation.judged import JudgedRows
from rft.feedback.base import Answer, Work
from rft.feedback.judges.base import PointwiseJudge, Verdicts
from rft.report import images, judge_figures, plots, print_table, summarise
from rft.report.feedback import excluded
from rft.report.html import render
from rft.report.judge_views import economics, judges, lines
from rft.report.markdown import escape, markdown, two
from rft.report.measures import measured, money, points, title
from rft.report.palette import key
from tests.synthetic_study import AUDIT, EVIL, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, prompts=8)


def changed(**values: Any) -> dict[str, Any]:
    return copy.deepcopy(AUDIT) | values


def printed(summary: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_table(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_audit_is_that_of_the_arms_that_the_judge_taught(study: Study) -> None:
    study.fill(("sft", "ppo", "rlaif"), seeds=2)
    summary = summarise(study.load())
    (audit,) = summary["audits"]
    assert audit == {**AUDIT, "arms": ["rlaif"], "results": 1}
    assert summary["unaudited"] == []
    assert summary["started_alike"]
    assert "audit" not in summary["stages"]
    assert summary["statistics"]["replicate"] == "policy"


def test_an_arm_whose_judge_was_not_audited_is_named(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=1)
    study.trial("rlaif", 0, audit=None)
    results = study.load()
    summary = summarise(results)
    assert (summary["audits"], summary["unaudited"]) == ([], ["rlaif"])
    told = "The judge of rlaif was not audited: no audit says how good its labels are."
    assert told in render(results, summary)
    assert told in markdown(summary)
    assert told in printed(summary)


def test_an_audit_that_is_gone_from_the_store_is_none(study: Study) -> None:
    study.fill(("sft", "rlaif"), seeds=1)
    study.store.gc(stages=["audit"])
    assert summarise(study.load())["unaudited"] == ["rlaif"]


def test_a_study_without_a_judge_says_nothing_of_judges(study: Study) -> None:
    results = study.fill(("sft", "ppo"), seeds=1).load()
    summary = summarise(results)
    assert (summary["audits"], summary["unaudited"], summary["label_quality"]) == ([], [], None)
    assert summary["eval_judge"] is None
    assert 'id="judges"' not in render(results, summary)
    assert "judge" not in markdown(summary)
    assert judge_figures.judge_figures(summary) == []


def test_seeds_with_audits_of_their_own_are_one_column(study: Study) -> None:
    study.trial("sft", 0)
    for seed in range(2):
        study.trial("rlaif", seed, audit=changed(seconds_per_question=0.1 + seed))
    summary = summarise(study.load())
    (audit,) = summary["audits"]
    assert (audit["results"], audit["seconds_per_question"]) == (2, 0.1)
    found = judges(summary)
    assert found is not None
    assert found["heads"][0]["results"].startswith("that of the first seed; 2 seeds")


def test_the_worst_finding_comes_first_in_the_terminal(study: Study) -> None:
    study.trial("rlaif", 0)
    (line,) = lines(summarise(study.load()))
    assert line.startswith(
        "judge few_shot, pairwise (rlaif): same position preferred in 97 % of pairs, 45 % of attacks"
    )
    places = [line.index(text) for text in ("same position", "attacks succeed", "flip with", "9 of 800 verdicts")]
    assert places == sorted(places)
    assert line.endswith(
        "agrees with 82 % of people's verdicts (one person: 85 %), 89 % of those on pairs that are clear by more than "
        "a rating point (one person: 94 %) and 79 % of gold's."
    )
    worse = changed(attacks={**AUDIT["attacks"], "success": {"value": 0.99, "low": 0.9, "high": 1.0, "n": 60}})
    study.trial("rlaif", 0, audit=worse)
    assert "(rlaif): 99 % of attacks succeed (10 % with a harmless addition), same" in lines(summarise(study.load()))[0]


def test_a_judge_that_sees_one_answer_at_a_time_cannot_be_swayed(study: Study) -> None:
    study.trial("rlaif", 0, audit=changed(order=None, form="pointwise", self_preference=None, attacks=None))
    results = study.load()
    summary = summarise(results)
    page = render(results, summary)
    assert "sees one answer at a time: no order can sway it" in page
    assert "flips when the order is swapped" not in page
    assert "one answer at a time, so no order can sway it" in lines(summary)[0]


def test_everything_the_audit_measured_is_on_the_page_and_in_markdown(study: Study) -> None:
    study.fill(("sft", "rlaif"), seeds=1)
    results = study.load()
    summary = summarise(results)
    page, text = render(results, summary), markdown(summary)
    for cell in (
        "agrees with people where they are clear by more than half a rating point",
        "82 to 90 %; 320 pairs; one person with the majority: 91 %; with the others&#39; mean: 89 %",
        "AUC where people are clear by more than a rating point", "0.93 to 1.00; 266 pairs; one person: 0.98",
        "82 %", "one person with the majority; with the others&#39; mean: 77 %", "0.94", "97 %", "31 %",
        "people: 52 %; +9 points (+5 to +13) against people", "Brier score 0.201",
        "gold: 58 %; +8 points (−1 to +17) against gold; judge and policy are of one model",
        "of 800 questions; 21 asked a second time", "choose A 60 %, ignore the instructions 30 %",
        "123,456 tokens read, 800 written", "48 ms", "0.000050", "0.025",
    ):  # fmt: skip
        assert cell in page, cell
    for cell in (
        "| agrees with people | 82 %",
        "people: 52 %; +9 points",
        "| mixed | few\\_shot, pairwise | 25 % | 87 %",
    ):
        assert cell in text, cell


@pytest.mark.parametrize(
    ("same", "words"),
    [
        (False, "judge and policy are of different models"),
        (None, "whether judge and policy are of one model is not known"),
    ],
)
def test_whether_judge_and_policy_are_one_model(study: Study, same: bool | None, words: str) -> None:
    study.trial("rlaif", 0, audit=changed(self_preference={**AUDIT["self_preference"], "same_family": same}))
    summary = summarise(study.load())
    assert words in markdown(summary)


def test_page_markdown_and_terminal_say_the_same_of_an_audit(study: Study) -> None:
    study.trial("rlaif", 0)
    results = study.load()
    summary = summarise(results)
    page = html.unescape(render(results, summary))
    told, command = markdown(summary), judge_table.markdown([AUDIT])
    shown = judge_table.table([AUDIT])
    names, cells, good = ([str(cell) for cell in column.cells] for column in shown.columns)
    found = measured([AUDIT])
    assert len(found) == 19
    for place, row in enumerate(found):
        ((value, note),) = row.cells
        assert (names[place], good[place]) == (row.name, row.good)
        assert cells[place] == (f"{value}\n{note}" if note else value)
        line = f"| {escape(row.name)} | {two(value, note)} | {row.good} |"
        assert line in told
        assert line in command
        for part in (row.name, value, note, row.good):
            assert part in page


def test_text_of_an_audit_is_shown_as_text(study: Study) -> None:
    evil = changed(judge=EVIL, model=EVIL)
    evil["attacks"]["by_attack"][0]["attack"] = EVIL
    evil["economics"][0]["source"] = EVIL
    study.trial("rlaif", 0, audit=evil)
    results = study.load()
    summary = summarise(results)
    for text in (render(results, summary), markdown(summary)):
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_the_curve_of_calibration_is_the_bins_that_hold_pairs(study: Study) -> None:
    study.trial("rlaif", 0)
    figure = judge_figures.calibration(summarise(study.load()))
    assert figure is not None
    line, curve = figure.series
    assert (line.x, line.y) == ([0.0, 1.0], [0.0, 1.0])
    assert curve.x == pytest.approx([0.1, 0.3, 0.7, 0.9])
    assert curve.y == pytest.approx([0.3, 0.38, 0.54, 0.62])
    assert figure.names == ("", "few_shot, pairwise")
    drawn = plots.specification(figure)["data"]
    assert all(trace["meta"]["own"] for trace in drawn)


def test_how_agreement_grows_with_clarity_is_a_figure(study: Study) -> None:
    study.trial("rlaif", 0)
    summary = summarise(study.load())
    found = judge_figures.clarity(summary)
    assert found is not None
    people, judge = found.series
    assert (people.x, people.y) == ([0.0, 0.5, 1.0], [0.8467, 0.906, 0.938])
    assert (judge.x, judge.y) == ([0.0, 0.5, 1.0], [0.815, 0.858, 0.886])
    assert judge.low == pytest.approx([0.775, 0.818, 0.846])
    assert found.names == ("one person", "few_shot, pairwise")
    other = changed(judge="other", human={**AUDIT["human"], "ceiling": {"majority": 0.8}})
    summary["audits"].append({**other, "arms": ["x"], "results": 1})
    unlike = judge_figures.clarity(summary)
    assert unlike is not None
    assert [one.name for one in unlike.series] == ["few_shot, pairwise", "other, pairwise"]


def test_an_audit_of_before_there_were_clear_cases_is_read(study: Study) -> None:
    human = {name: part for name, part in AUDIT["human"].items() if name not in ("clear", "auc_person")}
    study.trial("rlaif", 0, audit=changed(human=human))
    results = study.load()
    summary = summarise(results)
    assert (summary["audits"][0]["human"]["clear"], summary["audits"][0]["human"]["auc_person"]) == ([], None)
    assert judge_figures.clarity(summary) is None
    assert len(measured(summary["audits"])) == 15
    assert "where they are clear" not in render(results, summary)
    assert lines(summary)[0].endswith("agrees with 82 % of people's verdicts (one person: 85 %) and 79 % of gold's.")
    both = measured([AUDIT, summary["audits"][0]])
    assert [row.cells[1] for row in both if " clear " in row.name] == [("–", "")] * 4


def test_a_judge_that_is_named_by_its_form_is_named_once() -> None:
    assert title(changed(judge="pairwise")) == "pairwise"
    assert title(changed(judge="constitution")) == "constitution, pairwise"


def test_judges_of_one_name_are_told_apart_by_their_arms(study: Study) -> None:
    study.trial("rlaif", 0)
    study.trial("rlaif_dpo", 0, audit=changed(seconds_per_question=0.5))
    found = judges(summarise(study.load()))
    assert found is not None
    assert [head["title"] for head in found["heads"]] == [
        "few_shot, pairwise (rlaif)",
        "few_shot, pairwise (rlaif_dpo)",
    ]
    said = [one.partition(":")[0] for one in lines(summarise(study.load()))]
    assert said == ["judge few_shot, pairwise (rlaif)", "judge few_shot, pairwise (rlaif_dpo)"]


def test_the_price_of_a_label_keeps_the_digits_that_count(study: Study) -> None:
    study.trial("rlaif", 0)
    assert [row["cost"] for row in economics(summarise(study.load()))] == ["0.10", "0.000050", "0.025"]
    assert [money(x) for x in (None, 0.0, 12.0, 0.099, 1.2e-7)] == ["–", "0.00", "12.00", "0.099", "0.00000012"]
    assert [points(x) for x in (0.1, -0.1, 0.001)] == ["+10", "−10", "0"]


def test_excluded_pairs_are_counted_and_in_no_agreement(study: Study) -> None:
    study.fill(("sft", "ppo", "rlaif"), seeds=1)
    results = study.load()
    summary = summarise(results)
    told = "12 of 512 pairs of ai feedback (rlaif) are excluded: the judge"
    for text in (printed(summary), markdown(summary)):
        assert told in text
    page = render(results, summary)
    assert told in page
    assert "12 excluded" in page
    assert summary["feedback"]["agreement"][0]["pairs"] == 32


def qualities(study: Study, slope: float, seeds: int = 3) -> dict[str, Any]:
    """A study of ppo on labels of four qualities."""
    for seed in range(seeds):
        study.trial("sft", seed)
        for quality in (0.6, 0.7, 0.8, 0.9):
            study.labelled(f"ppo-{quality}", seed, "ppo", quality, 0.5 + slope * (quality - 0.75))
    return summarise(study.load())


def test_gold_rises_with_the_quality_of_labels(study: Study) -> None:
    summary = qualities(study, slope=0.6)
    (line,) = summary["label_quality"]
    assert line["optimiser"] == "ppo"
    assert [point["agreement"] for point in line["points"]] == [0.6, 0.7, 0.8, 0.9]
    means = [summary["arms"][point["arm"]]["splits"]["test"]["gold"] for point in line["points"]]
    assert [point["gold"] for point in line["points"]] == means
    # Least squares of mean gold on agreement, for a tenth of agreement.
    slope = np.polyfit([0.6, 0.7, 0.8, 0.9], [one["mean"] for one in means], 1)[0] / 10
    assert line["rise"]["mean"] == pytest.approx(slope, abs=1e-12)
    assert line["rise"]["low"] > 0
    assert line["sentence"].startswith("With better labels the gold reward of ppo rises: +0.0")
    assert line["sentence"] in printed(summary)
    assert line["sentence"] in render(study.load(), summary)
    figure = judge_figures.label_quality(summary)
    assert figure is not None
    assert figure.names == ("sft (control)", "ppo")
    for feedback, words in (("simulated", "control sft."), (None, "control sft, which learned from no labels.")):
        taught = copy.deepcopy(summary)
        taught["arms"]["sft"]["feedback"] = feedback
        of_labels = judge_figures.label_quality(taught)
        assert of_labels is not None
        assert of_labels.caption.endswith(f"The dotted line is the {words}")
    legend = images._canvas([figure], list(summary["arms"])).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["sft (control)", "ppo"]
    assert legend.get_lines()[0].get_linestyle() == ":"
    assert f"<span>{key(0)}sft (control)</span>" in render(study.load(), summary)
    level, curve = figure.series
    assert set(level.y) == {summary["arms"]["sft"]["splits"]["test"]["gold"]["mean"]}
    assert curve.low == [one["low"] for one in means]
    error = plots.specification(figure)["data"][1]["error_y"]
    assert error["arrayminus"] == pytest.approx([one["mean"] - one["low"] for one in means])


def test_what_is_not_shown_is_not_said(study: Study) -> None:
    (line,) = qualities(study, slope=0.0)["label_quality"]
    assert line["rise"]["low"] < 0 < line["rise"]["high"]
    assert line["sentence"] == ""


def test_one_seed_shows_no_rise(study: Study) -> None:
    (line,) = qualities(study, slope=0.6, seeds=1)["label_quality"]
    assert line["sentence"] == ""


def test_two_qualities_make_no_line(study: Study) -> None:
    study.trial("sft", 0)
    for arm, quality in (("ppo-a", 0.6), ("ppo-b", 0.6), ("ppo-c", 0.9)):
        study.labelled(arm, 0, "ppo", quality, 0.5)
    study.labelled("dpo-a", 0, "dpo", 0.7, 0.5)
    assert summarise(study.load())["label_quality"] is None


def test_scores_of_the_judge_that_tests_have_means_and_differences(tmp_path: Path) -> None:
    study = Study(tmp_path, prompts=8, eval_judge=True)

    def unread(rows: list[dict[str, Any]]) -> None:
        rows[2]["judge"] = None
        for row in rows:
            if row["judge"] is not None:
                row["judge"] = 8 * row["gold"] - 4

    for seed in range(2):
        study.trial("sft", seed)
        study.trial("ppo", seed, change_rows=unread if seed else None)
        study.trial("rlaif", seed)
    results = study.load()
    summary = summarise(results)
    kept = [n for n in range(8) if n != 2]  # the prompt of which one seed has no score counts for no arm
    gold = {
        arm: np.mean([study.rows(arm, seed)[n]["gold"] for seed in range(2) for n in kept]) for arm in ("sft", "ppo")
    }
    ppo, sft = (summary["arms"][arm]["splits"]["test"]["judge"] for arm in ("ppo", "sft"))
    assert ppo["mean"] == pytest.approx(8 * gold["ppo"] - 4)
    assert ppo["difference"]["mean"] == pytest.approx(8 * (gold["ppo"] - gold["sft"]))
    assert sft["difference"] is None
    assert (ppo["excluded"], sft["excluded"]) == (0.5, 0.0)
    assert summary["eval_judge"]["judges"] == ["few_shot"]
    assert summary["eval_judge"]["taught"] == ["rlaif"]
    for text in (render(results, summary), markdown(summary), printed(summary)):
        assert "rlaif learned from the judge that tests it" in text
        assert "judge minus sft" in text or "judge<br>minus sft" in text


class Dear(PointwiseJudge):
    """An answer costs 15 tokens read, 2 written and 0.25 of money."""

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        n = len(answers)
        work = Work(n, kept=1, read=15 * n, written=2 * n, seconds=3.0, money=0.25 * n)
        return Verdicts(np.arange(float(n)), [{}] * n, work)


def test_the_entry_of_the_final_test_says_what_its_judge_took() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "p", "response": str(i), "split": "test"} for i in range(2)]
    judge = JudgedRows(Dear(), taught=False)
    judge.add(rows)
    assert judge.cost == {
        "kept": 1, "judge_seconds": 3.0, "judge_read": 30, "judge_written": 4, "judge_money": 0.5,
    }  # fmt: skip


def test_what_the_judge_that_tests_took_is_told_and_charged_to_nobody(tmp_path: Path) -> None:
    """Two evaluations of 9,000 tokens read, 30 written and 0.015 of money each."""
    study, unjudged = Study(tmp_path / "judged", prompts=8, eval_judge=True), Study(tmp_path / "not", prompts=8)
    for one in (study, unjudged):
        one.trial("sft", 0)
        one.trial("ppo", 0)
    results = study.load()
    summary, without = summarise(results), summarise(unjudged.load())
    assert summary["cost"]["eval_judge"] == {"read": 18000, "written": 60, "money": pytest.approx(0.03)}
    for arm, used in summary["cost"]["budget"]["arms"].items():
        other = without["cost"]["budget"]["arms"][arm]
        for kind in ("own", "full", "shared"):  # but for the seconds of this machine, which both have of their own
            assert used[kind]["money"] == pytest.approx(other[kind]["money"], abs=0.005)
    told = "The judge of the final test read 18,000 tokens and wrote 60, for 0.030, over all trials."
    for text in (render(results, summary), markdown(summary)):
        assert told in text
    assert without["cost"]["eval_judge"] is None
    assert "The judge of the final test" not in markdown(without)


def test_scores_of_another_judge_are_not_compared(tmp_path: Path) -> None:
    study = Study(tmp_path, prompts=8, eval_judge=True)
    study.trial("sft", 0)
    study.trial("ppo", 0, change=lambda r: r["config"]["eval_judge"].update(batch_size=1))
    summary = summarise(study.load())
    assert summary["arms"]["ppo"]["splits"]["test"]["judge"]["difference"] is None
    assert any("differences are taken only" in one for one in summary["eval_judge"]["sentences"])


@pytest.mark.parametrize("lost", [0, 243])
def test_answers_without_a_revision_are_counted(lost: int) -> None:
    metrics = {name: dict.fromkeys(("mean", "min", "max"), n) for name, n in (("excluded", lost), ("questions", 512))}
    told = excluded({"preferences": [], "revisions": [{"arms": ["constitutional"], "metrics": metrics}]})
    words = "243 of 512 answers (constitutional) have no revision that could be read: the start policy was not "
    assert told == ([f"{words}fine-tuned on them."] if lost else [])
