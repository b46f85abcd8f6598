"""What a report is beside its page: figures as data and as files, Markdown, provenance; and the rules that pick."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from rft.machine import commit
from rft.report import StudyResults, figures, learning, plots, summarise, views, write_report
from rft.report.environment import environment
from rft.report.html import render
from rft.report.images import images
from rft.report.imports import LIBRARIES
from rft.report.markdown import escape, markdown
from rft.report.palette import DARK, LIGHT, PLOTLY_DASHES, PLOTLY_MARKS, key
from rft.report.provenance import differences
from rft.report.resources import amount
from rft.report.samples import CARD_ARMS, reward_hacked, samples, shown_arms
from rft.report.selection import leading, left_out
from rft.report.write import lines, panels
from tests.full_summary import full
from tests.synthetic_study import EVIL, Study

NAMES = {"forest", "frontier", "proxy_gold", "clarity", "calibration", "label_quality", "curves"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, dict[str, Any]]:
    results = Study(tmp_path_factory.mktemp("study")).fill().load()
    return results, full(summarise(results))


@pytest.fixture(scope="module")
def summary(made: tuple[StudyResults, dict[str, Any]]) -> dict[str, Any]:
    return made[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, dict[str, Any]]:
    """Forty arms: more than there are colours, places for answers and lines in a figure."""
    study = Study(tmp_path_factory.mktemp("many"), prompts=6)
    results = study.fill(("sft", *(f"arm-{n:02d}" for n in range(39))), seeds=1).load()
    return results, full(summarise(results))


def test_every_figure_is_one_that_plotly_knows(summary: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    main, more = learning.curves(summary)
    ranking, tuning = figures.ranking(summary), learning.tuning(summary)
    assert ranking is not None
    assert tuning is not None
    for figure in (*figures.final_test(summary), ranking, tuning, *main, *more):
        go.Figure(plots.specification(figure))  # raises on a property that plotly does not have
        assert figure.series


def test_the_forest_has_the_numbers_of_the_table(summary: dict[str, Any]) -> None:
    forest = figures.forest(summary)
    for one in forest.series:
        split = "ood" if one.hollow else "test"
        difference = summary["arms"][one.name]["splits"][split]["difference"]
        assert (one.low[0], one.x[0], one.high[0]) == (difference["low"], difference["mean"], difference["high"])
        assert round(one.y[0] or 0) == forest.rows.index(one.name)
    assert list(forest.rows) == ["ppo", "rlaif", "dpo"]


def test_the_fitted_law_is_drawn_as_written(summary: dict[str, Any]) -> None:
    fit = figures.fitted(summary, "ppo")
    assert fit is not None
    start = summary["arms"]["sft"]["splits"]["test"]["gold"]["mean"]
    for kl, gold in zip(fit.x, fit.y, strict=True):
        assert kl is not None
        distance = math.sqrt(kl)
        assert gold == pytest.approx(start + distance * (0.21 - 0.05 * math.log(distance)), abs=1e-3)
    assert figures.fitted({**summary, "overoptimisation": {"ppo": None}}, "ppo") is None


def test_a_curve_lies_over_what_its_seeds_had_used(summary: dict[str, Any]) -> None:
    steps = [4, 6, 96]
    assert learning.along(summary, "dpo", [0, 1], steps, "steps") == steps
    assert learning.along(summary, "dpo", [0, 1], steps, "seconds") == [12.0, 18.0, 288.0]  # 3 s a step
    assert learning.along(summary, "dpo", [0, 1], [2], "seconds") == [6.0]  # from nothing at the start
    assert learning.along(summary, "dpo", [0, 1], steps, "generated_tokens") == [0.0] * 3  # logged as 0
    assert learning.along(summary, "dpo", [0, 1], steps, "unheard") is None
    assert learning.along(summary, "dpo", [0, 9], steps, "seconds") is None


def test_the_axis_shown_first_is_what_the_budget_limits(summary: dict[str, Any]) -> None:
    def limited(**limit: float) -> dict[str, Any]:
        return {**summary, "cost": {**summary["cost"], "budget": {"arms": {"ppo": {"limit": limit}}}}}

    assert learning.preferred_axis(summary) == "steps"  # there is no limit
    assert learning.preferred_axis(limited(seconds=60)) == "seconds"
    assert learning.preferred_axis(limited(generated_tokens=900)) == "steps"  # dpo generates none
    assert learning.preferred_axis(limited(generated_tokens=900, flops=1e9)) == "flops"
    assert learning.axes({**summary, "cost": {**summary["cost"], "axes": {}}}) == ["steps"]


def test_x_values_are_kept_once(summary: dict[str, Any]) -> None:
    main, more = learning.curves(summary)
    found = plots.switchable([*main, *more])
    traces = [trace for plot in found["plots"].values() for trace in plot["data"]]
    assert len({json.dumps(grid) for grid in found["grids"]}) == len(found["grids"]) < len(traces)
    assert all(len(found["grids"][t["meta"]["grid"]]["steps"]) == len(t["y"]) for t in traces)


def test_files_of_figures_are_pictures_and_the_same_bits_again(summary: dict[str, Any]) -> None:
    arms = list(summary["arms"])
    first = images(panels(summary), arms)
    assert set(first) == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    assert images(panels(summary), arms) == first
    for name, content in first.items():
        if name.endswith("svg"):
            assert ElementTree.fromstring(content).tag.endswith("svg")
            assert b"dc:date" not in content
        else:
            assert content.startswith(b"\x89PNG")


def test_drawing_leaves_the_settings_of_matplotlib_alone(summary: dict[str, Any]) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0}):
        images({"forest": [figures.forest(summary)]}, list(summary["arms"]))
        assert matplotlib.rcParams["font.size"] == 31.0


def test_markdown_has_verdict_numbers_pairs_and_costs(summary: dict[str, Any]) -> None:
    text = markdown(summary, ["figures/forest.svg"])
    assert text.splitlines()[2] == f"**{escape(summary['verdict']['headline'])}**"
    for wanted in ("🟢 better", "ppo against dpo", "generated tokens", "![figures/forest.svg](figures/forest.svg)"):
        assert wanted in text
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 7  # two splits, the audit, who could label, quality of labels, pairs, costs
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_shows_text_of_users_as_text(summary: dict[str, Any]) -> None:
    evil = f"{EVIL} | *bold* `code` [link](http://x) @someone #12\n# heading"
    failed = [{"arm": "x", "seed": 0, "trial": "x|y/seed-0", "error": evil}]
    text = markdown({**summary, "failed": failed, "warnings": [evil]})
    listed = [line for line in text.splitlines() if line.startswith("> - ")]
    assert len(listed) == 2
    for line in listed:
        rest = line.removeprefix("> - ")
        assert not re.search(r"[<>@]|(?<!&)#|(?<!\\)[|*`\[\]]|http:", rest)


def test_settings_in_which_arms_differ_are_listed_by_dotted_key(tmp_path: Path) -> None:
    study = Study(tmp_path)
    config = {"algorithm": {"lr": 0.1, "lora": {"rank": 8}}, "seed": 3, "task": {"n": [1, 2]}}
    other = {"algorithm": {"lr": 0.2, "lora": {"rank": 8}, "clip": 0.2}, "seed": 4, "task": {"n": [1, 2]}}
    study.trial("a", 0, change=lambda record: record.update(config=config))
    study.trial("b", 0, change=lambda record: record.update(config=other))
    assert differences(study.load(), ["a", "b"]) == [
        {"key": "algorithm.clip", "arms": {"b": 0.2}},
        {"key": "algorithm.lr", "arms": {"a": 0.1, "b": 0.2}},
    ]


def test_the_environment_names_versions_machine_and_results(made: tuple[StudyResults, dict[str, Any]]) -> None:
    found = environment(made[0])
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["cores"] >= 1
    assert found["results"]["first"] <= found["results"]["last"]
    assert json.loads(json.dumps(found)) == found


def test_the_commit_is_of_a_tracked_package_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        done = subprocess.run(["git", *settings, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    assert commit(package) is None  # such as a virtual environment inside another project's checkout
    git("add", ".")
    git("commit", "-q", "-m", "two")
    assert commit(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "__init__.py").write_text("x = 1")
    assert commit(package) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_the_summary_is_readable_and_whole(summary: dict[str, Any]) -> None:
    text = lines(summary)
    assert json.loads(text) == summary
    assert text.count("\n") > 50
    with pytest.raises(ValueError, match="JSON compliant"):
        lines({"a": {"b": [{"c": float("nan")}]}})


def test_reward_hacking_is_more_proxy_and_less_gold_than_the_control() -> None:
    gold = np.array([[0.5, 0.5, 0.5], [0.1, 0.9, 0.4], [0.4, 0.1, 0.6]])
    proxy = np.array([[0.0, 0.0, 0.0], [3.0, 3.0, -1.0], [1.0, -2.0, 1.0]])
    hacked, score = reward_hacked(gold, proxy, 0)
    assert hacked.tolist() == [[False] * 3, [True, False, False], [True, False, False]]
    assert score[0] == pytest.approx(3.0 / proxy.std() + 0.4 / gold.std())
    assert score[1:].tolist() == [0.0, 0.0]
    assert not reward_hacked(gold, proxy, None)[0].any()
    assert not reward_hacked(gold, np.full_like(proxy, np.nan), 0)[0].any()


def test_an_answer_that_was_not_judged_hacks_nothing_and_hides_no_other() -> None:
    gold = np.array([[0.5, 0.5, 0.5], [0.1, 0.1, 0.1]])
    proxy = np.array([[0.0, np.nan, 0.0], [3.0, 3.0, np.nan]])
    hacked, score = reward_hacked(gold, proxy, 0)
    assert hacked.tolist() == [[False] * 3, [True, False, False]]
    assert score[1:].tolist() == [0.0, 0.0]


def test_an_answer_that_was_not_judged_is_shown_as_such(tmp_path: Path) -> None:
    """Of the control's first answer and of ppo's second there is no proxy; no mean is made up for them."""

    def lose(place: int) -> Callable[[list[dict[str, Any]]], None]:
        return lambda rows: rows[place].update(proxy=None)

    study = Study(tmp_path, prompts=6)
    study.fill(("sft", "ppo"), seeds=2)
    whole = summarise(study.load())
    study.trial("sft", 0, change_rows=lose(0))
    study.trial("ppo", 0, change_rows=lose(1))
    results = study.load()
    assert results.failed == ()
    rows = {arm: results.arm(arm)[0].rows["test"] for arm in ("sft", "ppo")}
    assert np.flatnonzero(np.isnan(rows["sft"].proxy)).tolist() == [0]
    summary = summarise(results)
    found = samples(results, summary).prompts
    told = {(one.prompt_id, answer.arm): answer for one in found for answer in one.answers}
    lost = {where for where, answer in told.items() if answer.unjudged}
    assert lost == {("test-0000", "sft"), ("test-0001", "ppo")} & told.keys()
    assert lost
    assert not any(told[where].hacked for where in lost)
    kept, before = (one["arms"]["ppo"]["splits"]["test"] for one in (summary, whole))
    assert kept["per_seed"][0]["proxy"] == pytest.approx(np.nanmean(rows["ppo"].proxy))
    assert kept["per_seed"][1] == before["per_seed"][1]
    assert (kept["gap"] is None) == (before["gap"] is None)
    page = render(results, summary)
    assert page.count("proxy not judged") == len(lost)


def test_more_arms_than_fit_are_picked_by_a_rule_that_is_said(many: tuple[StudyResults, dict[str, Any]]) -> None:
    results, summary = many
    kept = leading(summary, 12)
    gold = {arm: record["splits"]["test"]["gold"]["mean"] for arm, record in summary["arms"].items()}
    assert "sft" in kept
    assert min(gold[arm] for arm in kept if arm != "sft") >= max(gold[arm] for arm in gold if arm not in kept)
    assert left_out(summary, 12) == (
        "Of 40 arms, shown are the control sft and the 11 with the highest mean gold reward."
    )
    assert left_out(summary, 40) == ""
    summary["arms"]["arm-07"]["splits"]["test"]["gap"] = {"mean": 9.0, "low": 8.0, "high": 10.0}
    assert len(shown_arms(summary)) == CARD_ARMS
    assert {"sft", "arm-07"} <= set(shown_arms(summary))
    shown = samples(results, summary)
    assert "Of 40 arms" in shown.why
    assert {len(prompt.answers) for prompt in shown.prompts} == {CARD_ARMS}


def test_arms_of_one_colour_have_another_mark_or_dash() -> None:
    looks = {(str(key(n)), PLOTLY_MARKS[n % len(PLOTLY_MARKS)]) for n in range(42)}
    assert len(looks) == 42
    assert len({(n % 7, PLOTLY_DASHES[n % len(PLOTLY_DASHES)]) for n in range(35)}) == 35


MACHADO = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Severity 1, on linear RGB: Machado, Oliveira & Fernandes 2009 (IEEE TVCG 15:1291), table 1."""


def lab(colours: tuple[str, ...], sight: str) -> np.ndarray[Any, Any]:
    """CIELAB [colours, 3] under D65 as seen with a deficiency."""
    coded = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(MACHADO.get(sight, np.eye(3))).T, 0, 1)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = seen @ to_xyz.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("sight", ["usual", *MACHADO])
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_no_two_colours_come_near_each_other_to_any_eye(colours: tuple[str, ...], sight: str) -> None:
    """All there are: the eighth arm has the first colour again, with another mark and dash."""
    found = lab(colours, sight)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)[np.triu_indices(len(colours), 1)]
    assert apart.min() >= 10


def test_what_the_page_says_needs_no_pointer(made: tuple[StudyResults, dict[str, Any]]) -> None:
    """A title= is out of reach of keyboards and touch."""
    results, summary = made
    page = render(results, summary)
    matrix = page.split('<table class="matrix">')[1].split("</table>")[0]
    assert len(re.findall(r'<span class="range">\d+ to \d+ %</span>', matrix)) == 12
    origins = page.split('id="start"')[1]
    for stage in summary["stages"].values():
        for uses in stage["arms"].values():
            assert all(f"<code>{use[which]}</code>" in origins for use in uses for which in ("key", "digest"))
    assert not re.search(r'title="(?!interquartile|p-value)', page.split("<body")[1].split("<script")[0])
    assert "Find among the prompts shown here" in page


def test_a_pair_turned_round_says_the_same() -> None:
    share = {"mean": 0.3, "low": 0.2, "high": 0.4, "covers": "seeds and prompts"}
    entry = {"arm": "a", "against": "b", "mean": -0.2, "low": -0.3, "high": 0.1, "verdict": "worse", "win_rate": share}
    found = views.turned(entry)
    assert (found["arm"], found["against"], found["verdict"]) == ("b", "a", "better")
    assert (found["low"], found["mean"], found["high"]) == (-0.1, 0.2, 0.3)
    assert found["win_rate"] == pytest.approx({**share, "mean": 0.7, "low": 0.6, "high": 0.8})


def test_amounts_as_words() -> None:
    cases = {"flops": 3.42e15, "generated_tokens": 12_345, "prompts": 512, "seconds": 90, "money": 0.0375}
    assert [amount(value, resource) for resource, value in cases.items()] == [
        "3.4 P", "12.3 k", "512", "1 min 30 s", "0.0375",
    ]  # fmt: skip
    assert amount(None, "flops") == "–"


def test_a_study_without_control_or_splits_has_a_report(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.fill(("dpo", "ppo"), seeds=2)
    results = study.load()
    summary = summarise(results)
    page = write_report(results, summary, tmp_path / "out").read_text()
    assert 'data-plot="forest"' in page
    assert "Reward up, gold down" in page


@pytest.mark.slow
def test_what_is_imported_before_a_report_is_made_is_what_making_it_imports(tmp_path: Path) -> None:
    made = (
        "import sys\nfrom pathlib import Path\nfrom tests.synthetic_study import Study\n"
        "from rft.report import summarise, write_report\n"
        "results = Study(Path(sys.argv[1])).fill().load()\n"
        "write_report(results, summarise(results), Path(sys.argv[1]) / 'out')\nprint(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", made, str(tmp_path)], capture_output=True, text=True, check=True)
    assert set(LIBRARIES) <= set(done.stdout.split())
