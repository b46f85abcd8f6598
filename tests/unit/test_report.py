"""The report on synthetic trials in a real store: numbers, provenance, escaping, atomic files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft.errors import UserError
from rft.evaluation.metrics import distinct_n, prompt_means, truncation_rate
from rft.report import print_table, summarise, write_report
from rft.report.html import island, plotly, render
from rft.report.views import duels
from rft.report.wording import duration, number
from tests.synthetic_study import EVIL, GOLD, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


class Page(HTMLParser):
    """What a browser would make of the page: elements, their addresses, text by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Mapping[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_means_and_differences_are_those_of_the_rows(study: Study) -> None:
    summary = summarise(study.fill(("sft", "ppo")).load())
    golds = {
        arm: np.mean([row["gold"] for seed in range(3) for row in study.rows(arm, seed) if row["split"] == "ood"])
        for arm in ("sft", "ppo")
    }
    ppo = summary["arms"]["ppo"]["splits"]["ood"]
    assert ppo["gold"]["mean"] == pytest.approx(golds["ppo"], abs=1e-12)
    assert ppo["difference"]["mean"] == pytest.approx(golds["ppo"] - golds["sft"], abs=1e-12)
    assert ppo["difference"]["low"] < ppo["difference"]["mean"] < ppo["difference"]["high"]
    assert ppo["difference"]["excludes_zero"]
    kl = [row["kl"] for seed in range(3) for row in study.rows("ppo", seed) if row["split"] == "ood"]
    assert ppo["kl"] == pytest.approx(np.mean(kl))
    assert summary["arms"]["ppo"]["seeds"] == [0, 1, 2]
    assert summary["arms"]["ppo"]["n_prompts"] == {"test": 24, "ood": 24}
    assert summary["splits"] == ["test", "ood"]
    assert summary["arms"]["sft"]["splits"]["test"]["difference"] is None


def test_several_samples_of_a_prompt_count_as_one_prompt(study: Study) -> None:
    def twice(rows: list[dict[str, Any]]) -> None:
        rows += [{**row, "sample": 1, "gold": row["gold"] / 2} for row in rows[:5]]

    for arm in ("sft", "ppo"):
        for seed in range(2):
            study.trial(arm, seed, change_rows=twice)
    summary = summarise(study.load())
    assert summary["arms"]["sft"]["n_prompts"]["test"] == 24
    rows = [row["gold"] for row in study.rows("sft", 0) if row["split"] == "test"]
    rows[:5] = [gold * 0.75 for gold in rows[:5]]
    assert summary["arms"]["sft"]["splits"]["test"]["gold"]["mean"] == pytest.approx(np.mean(rows))


def test_headline_names_the_winner_the_margin_and_the_interval(study: Study) -> None:
    summary = summarise(study.fill().load())
    headline = summary["verdict"]["headline"]
    difference = summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert headline.startswith("ppo is better than the control sft")
    assert number(difference["mean"], sign=True) in headline
    assert f"95 % interval {number(difference['low'], sign=True)} to" in headline
    assert "3 seeds" in headline
    assert summary["verdict"]["settled"]


def test_one_seed_gets_no_verdict(study: Study) -> None:
    summary = summarise(study.fill(("sft", "ppo"), seeds=1).load())
    assert summary["verdict"]["headline"].startswith("No verdict yet")
    assert not summary["verdict"]["settled"]
    difference = summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert difference["covers"] == "prompts only"
    assert difference["verdict"] == "no verdict"
    page = render(study.load(), summary)
    assert "no verdict wherever they end" in page
    assert "is a verdict" not in page


def test_equal_arms_cannot_be_told_apart(study: Study) -> None:
    for arm in ("sft", "aa", "ab"):
        for seed in range(3):
            study.trial(arm, seed)
    summary = summarise(study.load())
    pair = next(p for p in summary["pairs"]["test"] if {p["arm"], p["against"]} == {"aa", "ab"})
    assert pair["low"] < 0 < pair["high"]


def test_study_without_control_has_means_but_no_differences(study: Study) -> None:
    summary = summarise(study.fill(("ppo", "dpo")).load())
    assert summary["control"] is None
    assert summary["arms"]["ppo"]["splits"]["test"]["difference"] is None
    assert "no control" in summary["verdict"]["headline"]
    render(study.load(), summary)


def test_arms_that_share_the_start_started_alike(study: Study) -> None:
    summary = summarise(study.fill().load())
    assert summary["started_alike"]
    assert summary["statistics"]["replicate"] == "policy"
    assert summary["stages"]["sft"]["same"]
    assert not summary["stages"]["preferences"]["same"]  # rlaif learns from AI labels
    assert summary["stages"]["preferences"]["alike"]
    keys = {arm: [use["key"] for use in uses] for arm, uses in summary["stages"]["preferences"]["arms"].items()}
    assert keys["ppo"] == keys["dpo"] == keys["sft"] != keys["rlaif"]


def test_another_start_is_found_and_said(study: Study) -> None:
    study.fill(("sft", "ppo"))
    for seed in range(3):
        study.trial("dpo", seed, start="another model")
    summary = summarise(study.load())
    assert not summary["started_alike"]
    assert not summary["stages"]["sft"]["same"]
    assert any("did not start alike (sft and candidates" in sentence for sentence in summary["verdict"]["sentences"])
    assert "The arms did not start alike" in Page(render(study.load(), summary)).text


def test_one_key_with_two_contents_is_no_equal_start(study: Study) -> None:
    study.fill(("sft",))

    def other_content(record: dict[str, Any]) -> None:
        record["stages"]["sft"]["digest"] = "f" * 64

    for seed in range(3):
        study.trial("ppo", seed, change=other_content)
    assert not summarise(study.load())["started_alike"]


def test_everything_but_cost_is_the_same_bits_again(study: Study, tmp_path: Path) -> None:
    study.fill()
    first = summarise(study.load())
    again = Study(tmp_path / "again")
    for arm in reversed(GOLD):  # another order, other times, another folder
        for seed in (2, 0, 1):
            again.trial(arm, seed, change=lambda record: record["stages"]["sft"].update(seconds=99.0))
    second = summarise(again.load())
    for machine in ("cost", "environment"):
        first.pop(machine)
        second.pop(machine)
    assert json.dumps(first) == json.dumps(second)


def test_costs_count_a_shared_result_once(study: Study) -> None:
    summary = summarise(study.fill().load())
    stages = summary["cost"]["stages"]
    assert stages["sft"]["results"] == 1
    assert stages["sft"]["shared"]
    assert stages["preferences"]["results"] == 2
    assert stages["policy"]["results"] == 9 + 1  # the control is not trained: one policy for all its seeds
    assert summary["cost"]["total_seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))


@pytest.mark.parametrize(
    ("change_rows", "reason"),
    [
        (lambda rows: rows.append(rows[0]), "is there twice"),
        (lambda rows: rows[3].update(gold=float("nan")), "gold of prompt test-0003 is nan"),
        (lambda rows: rows.pop(), "other questions"),
        (lambda rows: rows.clear(), "no column|no rows|cannot be read"),
    ],
)
def test_rows_that_cannot_be_compared_are_named_and_left_out(
    study: Study, change_rows: Callable[[list[dict[str, Any]]], Any], reason: str
) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    study.trial("ppo", 2, change_rows=change_rows)
    results = study.load()
    assert [trial.seed for trial in results.arm("ppo")] == [0, 1]
    assert [trial.arm for trial in results.failed] == ["ppo"]
    assert re.search(reason, results.failed[0].error)
    assert results.failed[0].error in Page(render(results, summarise(results))).text


def test_failed_and_lost_trials_are_listed_with_their_error(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    study.trial("dpo", 0, change=lambda r: r.update(status="failed", error="loss is NaN at step 7"))
    study.trial("dpo", 1, change=lambda r: r.update(evaluation="0" * 64))
    study.trial("dpo", 2).write_text("{half a fi")
    study.trial("dpo", 3, change=lambda r: r.pop("arm"))
    results = study.load()
    errors = {trial.folder: trial.error for trial in results.failed}
    assert errors["dpo/seed-0"] == "loss is NaN at step 7"
    assert "not in the store" in errors["dpo/seed-1"]
    assert "cannot be read" in errors["dpo/seed-2"]
    assert "lacks arm" in errors["dpo/seed-3"]
    assert list(summarise(results)["arms"]) == ["sft", "ppo"]


def test_a_second_trial_of_the_same_seed_is_not_averaged_in(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    copy = study.folder / "copy" / "trial.json"
    copy.parent.mkdir()
    copy.write_bytes((study.folder / "ppo" / "seed-0" / "trial.json").read_bytes())
    results = study.load()
    assert len(results.trials) == 4
    assert "a second trial of arm ppo with seed 0" in results.failed[0].error


def test_a_trial_of_the_same_seed_with_other_settings_stands_back_behind_those_of_the_arm(study: Study) -> None:
    study.fill(("sft", "ppo"), seeds=2)
    record = json.loads((study.folder / "ppo" / "seed-0" / "trial.json").read_text(encoding="utf-8"))
    other = study.folder / "ppo-s0-00000000" / "trial.json"
    other.parent.mkdir()
    record["config"] = (record.get("config") or {}) | {"candidates": {"seed": 7}}
    other.write_text(json.dumps(record), encoding="utf-8")
    results = study.load()
    assert len(results.trials) == 4
    assert [failed.folder for failed in results.failed] == ["ppo-s0-00000000"]
    assert "its settings are not those of the arm's other seeds" in results.failed[0].error


def test_nothing_to_report_names_the_folder_and_the_mend(study: Study) -> None:
    with pytest.raises(UserError, match=r"demo.*rft run -m study=demo"):
        study.load()
    study.folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no trial has ended in .*demo"):
        study.load()
    study.trial("ppo", 0, change=lambda r: r.update(status="failed", error="out of memory"))
    with pytest.raises(UserError, match=r"ppo/seed-0.*out of memory"):
        study.load()


def test_text_of_models_and_users_is_shown_as_text(study: Study, tmp_path: Path) -> None:
    def evil(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["response"] = row["prompt"] = EVIL

    study.trial("sft", 0, change_rows=evil)
    study.trial("ppo", 0, change_rows=evil)
    study.trial("dpo", 0, change=lambda r: r.update(status="failed", error=EVIL, arm=EVIL))
    results = study.load()
    summary = summarise(results)
    text = write_report(results, summary, tmp_path / "out").read_text()
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 4  # summary and plots, plotly and the page's own
    images = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert [source.partition(",")[0] for source in images] == ["data:image/svg+xml;base64"]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(EVIL) == 2 * 24 + 24 + 2  # answers, prompts, the error, the arm without a trial
    found = re.search(r'id="summary">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert json.loads(found.group(1)) == summary


def test_json_islands_hold_any_text() -> None:
    text = str(island({"response": EVIL, "line": "\u2028"}))
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text)["response"] == EVIL


def test_the_page_needs_nothing_from_elsewhere(study: Study) -> None:
    results = study.fill().load()
    text = render(results, summarise(results))
    page = Page(text)
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses
    assert all(address is not None and address.startswith("#") for address in addresses)
    assert text.count(plotly()) == 1
    text = text.replace(plotly(), "")
    assert not re.search(r"url\(|@import|https?://", text)
    identifiers = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {address[1:] for address in addresses if address and address != "#"} <= identifiers
    assert len(text) < 400_000


def test_page_carries_verdict_numbers_hashes_and_answers(study: Study) -> None:
    results = study.fill().load()
    summary = summarise(results)
    page = Page(render(results, summary))
    assert summary["verdict"]["headline"] in page.text
    assert summary["cost"]["sentence"] in page.text
    for arm, record in summary["arms"].items():
        assert number(record["splits"]["test"]["gold"]["mean"], 3) in page.text
        assert summary["stages"]["sft"]["arms"][arm][0]["key"][:8] in page.text
    assert results.arm("rlaif")[0].rows["test"].responses[0] in page.text
    drawn = [attributes["data-plot"] for _, attributes in page.elements if "data-plot" in attributes]
    assert {"forest", "frontier", "proxy_gold", "rollout/reward", "rollout/kl", "train/accuracy"} <= set(drawn)
    assert len([a for _, a in page.elements if (a.get("class") or "").split()[:1] == ["card"]]) == 24 * 4


def test_arms_meet_in_pairs_with_the_higher_mean_first(study: Study) -> None:
    summary = summarise(study.fill().load())
    met = duels(summary)
    assert {frozenset((duel["arm"], duel["against"])) for duel in met} == {
        frozenset(pair) for pair in (("ppo", "dpo"), ("ppo", "rlaif"), ("dpo", "rlaif"))
    }
    for duel in met:
        ahead, behind = (summary["arms"][duel[name]]["splits"]["test"]["gold"]["mean"] for name in ("arm", "against"))
        assert duel["mean"] == pytest.approx(ahead - behind)
        assert duel["mean"] > 0
        assert duel["low"] < duel["mean"] < duel["high"]


def test_a_study_without_a_reward_model_has_no_proxy(study: Study) -> None:
    def no_proxy(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["proxy"] = float("nan")

    for seed in range(2):
        for arm in ("sft", "dpo"):
            study.trial(arm, seed, change_rows=no_proxy, change=lambda record: record["stages"].pop("reward_model"))
    results = study.load()
    summary = summarise(results)
    assert summary["arms"]["dpo"]["splits"]["test"]["proxy"] is None
    assert "over-optimisation" not in render(results, summary)


def test_files_are_whole_or_not_there(study: Study, tmp_path: Path) -> None:
    results = study.fill(("sft", "ppo"), seeds=2).load()
    summary = summarise(results)
    out = tmp_path / "out"
    assert write_report(results, summary, out) == out / "report.html"
    assert sorted(path.name for path in out.iterdir()) == ["figures", "report.html", "report.md", "summary.json"]
    assert json.loads((out / "summary.json").read_text()) == summary
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(UserError, match=r"written to .*: (Not a directory|File exists); choose another folder"):
        write_report(results, summary, blocked)


def test_table_prints_test_before_ood_and_fits_markup_free(study: Study) -> None:
    from rich.console import Console

    study.fill(("sft", "ppo"), seeds=2)
    study.trial("dpo", 0, change=lambda r: r.update(status="failed", error="[red]not markup[/red]"))
    console = Console(width=140, record=True, force_terminal=False)
    summary = summarise(study.load())
    with console.capture() as captured:
        print_table(summary, console)
    text = captured.get()
    assert text.index("test: unseen questions") < text.index("ood: unseen topics")
    assert number(summary["arms"]["ppo"]["splits"]["test"]["gold"]["mean"], 3) in text
    assert "[red]not markup[/red]" in text
    assert "better" in text


def test_distinct_n_by_hand() -> None:
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)  # ab ba ab
    assert distinct_n(["a b", "b a"], 2) == 1.0  # no pair spans two texts
    assert distinct_n(["The film.", "the film."], 1) == pytest.approx(3 / 6)
    assert distinct_n([[1, 2, 1, 2], [5]], 2) == pytest.approx(2 / 3)
    assert np.isnan(distinct_n(["one"], 2))
    with pytest.raises(ValueError, match="n is 0"):
        distinct_n(["a"], 0)


def test_prompt_means_and_truncation_by_hand() -> None:
    means = prompt_means(np.array([1.0, 3.0, 10.0]), np.array([0, 0, 1]), 2)
    assert means.tolist() == [2.0, 10.0]
    with pytest.raises(ValueError, match="at least one row"):
        prompt_means(np.array([1.0]), np.array([0]), 2)
    assert truncation_rate(np.array([True, False, False, False])) == 0.25


def test_numbers_as_words() -> None:
    assert [number(-0.004), number(-0.26), number(0.26, sign=True), number(None)] == [
        "0.00",
        "−0.26",
        "+0.26",
        "–",
    ]
    assert [duration(4.2), duration(59.7), duration(3599.6), duration(7260)] == [
        "4.2 s", "1 min 00 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
