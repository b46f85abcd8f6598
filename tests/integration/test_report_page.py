"""The report in a real browser, from a file and without a network: quiet, self-contained, usable, and safe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft.evaluation.statistics import Resampling
from rft.report import StudyResults, summarise, write_report
from rft.report.wording import number
from tests.browser import Tab, browser, chromium
from tests.full_summary import full
from tests.synthetic_study import LargeStudy, Study

HOSTILE = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>\' & "<!--'
EVIL_ARM = "ppo <img src=x onerror=window.hacked=3><b>bold</b>"
SHOWN = (
    "[...document.querySelectorAll('article.prompt')].filter(e => e.offsetParent).map(e => Number(e.dataset.prompt))"
)
CARDS = "[...document.querySelectorAll('.card')].filter(e => e.offsetParent).map(e => e.dataset.arm)"
Made = tuple[Path, dict[str, Any], StudyResults]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report over five arms with all that a report can have; names, a prompt, an answer, an error are hostile."""
    root = tmp_path_factory.mktemp("page")
    study = Study(root, prompts=30)

    def hostile(rows: list[dict[str, Any]]) -> None:
        rows[0].update(prompt=HOSTILE)

    def hostile_answer(rows: list[dict[str, Any]]) -> None:
        hostile(rows)
        rows[0].update(response=HOSTILE)

    def pleasing(rows: list[dict[str, Any]]) -> None:
        """The reward model likes the answer to the sixth prompt more than any, and nobody else does."""
        hostile(rows)
        rows[5].update(proxy=20.0, gold=0.01)

    changes = {"ppo": hostile_answer, "dpo": pleasing, "rlaif": pleasing}
    for arm in ("sft", "dpo", "ppo", "rlaif", EVIL_ARM):
        for seed in range(3):
            study.trial(arm, seed, change_rows=changes.get(arm, hostile))
    study.trial("dpo", 3, change=lambda r: r.update(status="failed", error=HOSTILE, arm=HOSTILE))
    results = study.load()
    summary = full(summarise(results))
    for seed in summary["cost"]["axes"]["dpo"]:
        del seed["generated_tokens"]  # as where the store has an old history
    summary["warnings"] = [
        "15 of 16 planned trials have finished; not there: dpo seed 3",
        "the second sample of a prompt was left out",
    ]
    return write_report(results, summary, root / "out"), summary, results


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def page(tab: Tab, made: Made) -> Tab:
    tab.open(made[0].as_uri())
    return tab


def drawn(page: Tab, selector: str) -> None:
    """Scroll to a figure and wait until it is drawn."""
    page.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.wait(f"!!document.querySelector({json.dumps(selector + ' .main-svg')})")


def choose(page: Tab, selector: str, value: str) -> None:
    page.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = {json.dumps(value)};"
        " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_the_browser_has_nothing_to_complain_of_and_asks_for_nothing_else(page: Tab, made: Made) -> None:
    for name in page.run("[...document.querySelectorAll('.plot')].map(e => e.dataset.plot)"):
        drawn(page, f'[data-plot="{name}"]')
    page.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    assert [event["request"]["url"] for event in page.of("Network.requestWillBeSent")] == [made[0].as_uri()]


def test_a_fault_in_a_page_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://localhost:9/x.png"><script>console.error("one"); undefined.two()</script>')
    tab.open(bad.as_uri())
    assert len(tab.of("Runtime.exceptionThrown")) == 1
    assert len(tab.of("Runtime.consoleAPICalled")) == 1
    assert len(tab.of("Network.requestWillBeSent")) == 2


def test_the_first_sentence_is_the_verdict(page: Tab, made: Made) -> None:
    headline = made[1]["verdict"]["headline"]
    assert page.run("document.querySelector('main').innerText.trim()").startswith(headline)
    assert page.run("document.querySelectorAll('h1').length") == 1


def test_what_is_missing_is_said_before_the_numbers(page: Tab) -> None:
    before = page.run("document.querySelector('main').innerText.split('The numbers')[0]")
    assert "15 of 16 planned trials have finished; not there: dpo seed 3" in before
    assert "the second sample of a prompt was left out" in before
    assert HOSTILE in page.run("document.querySelector('#failed').textContent")


def test_hostile_text_stays_text(page: Tab) -> None:
    for name in ("forest", "frontier", "ranking", "tuning", "gold"):
        drawn(page, f'[data-plot="{name}"]')
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    first = "document.querySelector('article.prompt')"
    assert page.run(f"{first}.querySelector('h3 .text').textContent") == HOSTILE
    index = page.run(
        "[...document.querySelectorAll('#answers button.arm')].find(e => e.innerText == 'ppo').dataset.arm"
    )
    assert page.run(f"{first}.querySelector('[data-arm=\"{index}\"] .text').textContent").startswith(HOSTILE)
    labels = page.run("document.querySelector('[data-plot=forest] .ytick ~ .ytick').parentNode.textContent")
    assert "<b>bold</b>" in labels


def test_a_script_that_got_in_would_not_run(page: Tab) -> None:
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 4'}))"
    )
    page.run("document.body.insertAdjacentHTML('beforeend', '<b id=bait onclick=\"window.hacked = 5\">x</b>')")
    page.run("document.querySelector('#bait').click()")
    assert page.run("typeof window.hacked") == "undefined"
    complaints = [event["entry"]["text"] for event in page.of("Log.entryAdded")]
    assert len(complaints) == 2
    assert all("Content Security Policy" in text for text in complaints)


def test_figures_are_drawn_when_they_are_looked_at(page: Tab, made: Made) -> None:
    last = '[data-plot="tuning"]'
    assert not page.run(f"!!document.querySelector('{last} .main-svg')")
    drawn(page, last)
    drawn(page, "[data-plot=frontier]")
    points = sum(len(points) for points in made[1]["frontier"].values())
    finals = 3 * len(made[1]["arms"])
    marks = page.run("document.querySelectorAll('[data-plot=frontier] .points .point').length")
    assert marks == points - 3 + finals  # every checkpoint is a point; the control has final policies only


CURVE = "[data-plot='rollout/reward'] .scatterlayer .trace path.js-line"
AXIS_TITLE = "document.querySelector(\"[data-plot='rollout/reward'] .xtitle\").textContent"


def test_curves_switch_their_axis(page: Tab, made: Made) -> None:
    drawn(page, "[data-plot='rollout/reward']")
    offered = page.run("[...document.querySelector('#axis').options].map(e => e.value)")
    assert offered == [
        "steps",
        *("prompts", "generated_tokens", "trained_tokens", "flops", "seconds", "labels", "money"),
    ]
    ticks = "[...document.querySelectorAll(\"[data-plot='rollout/reward'] .xtick\")].map(e => e.textContent).join()"
    assert page.run(AXIS_TITLE) == "optimiser steps"
    lines = page.run(f'document.querySelectorAll("{CURVE}").length')
    before = page.run(ticks)
    choose(page, "#axis", "money")
    assert page.run(AXIS_TITLE) == "money"
    assert page.run(ticks) != before
    assert page.run(f'document.querySelectorAll("{CURVE}").length') == lines
    data = "document.querySelector(\"[data-plot='rollout/reward']\").data"
    last = page.run(f"{data}.filter(e => e.name.startsWith('rlaif, mean')).map(e => e.x.at(-1))")
    spent = [seed["money"][-1] for seed in made[1]["cost"]["axes"]["rlaif"]]
    assert spent[0] > 0
    assert last == [pytest.approx(sum(spent) / len(spent))]


def test_what_is_not_known_over_an_axis_is_said(page: Tab) -> None:
    drawn(page, "[data-plot='train/accuracy']")
    choose(page, "#axis", "generated_tokens")
    assert page.run("document.querySelector('#axis-note').textContent") == "Not known for dpo"
    text = "document.querySelector(\"[data-plot='train/accuracy'] .annotation\").textContent"
    assert page.run(text) == "Not known over generated tokens"
    choose(page, "#axis", "steps")
    assert page.run("document.querySelector('#axis-note').textContent") == ""
    assert page.run("document.querySelector(\"[data-plot='train/accuracy'] .annotation\")") is None


def test_every_other_metric_can_be_chosen(page: Tab) -> None:
    drawn(page, "#more")
    choose(page, "#metric", "train/loss")
    assert page.run("document.querySelector('#more .ytitle').textContent") == "train/loss"


def test_an_arm_is_hidden_everywhere_at_once(page: Tab) -> None:
    drawn(page, "[data-plot=forest]")
    shown = "document.querySelector('[data-plot=forest]').data.filter(e => e.visible).map(e => String(e.meta.arm))"
    assert "1" in page.run(shown)
    page.press('#figures button.arm[data-arm="1"]')
    assert "1" not in page.run(shown)
    assert page.run(CARDS) == ["0", "2", "3", "4"]
    pressed = "[...document.querySelectorAll('button.arm[data-arm=\"1\"]')].map(e => e.getAttribute('aria-pressed'))"
    assert set(page.run(pressed)) == {"false"}
    page.press('#answers button.arm[data-arm="1"]')
    assert "1" in page.run(shown)
    assert page.run(CARDS) == ["0", "1", "2", "3", "4"]


def test_a_heading_sorts_its_table(page: Tab) -> None:
    first = "[...document.querySelectorAll('table.sortable tbody')[0].rows].map(e => e.cells[0].innerText.trim())"
    by_gold = page.run(first)
    page.press("table.sortable thead th:nth-child(1) button")
    assert page.run(first) == sorted(by_gold, reverse=True)
    page.press("table.sortable thead th:nth-child(1) button")
    assert page.run(first) == sorted(by_gold)
    page.press("table.sortable thead th:nth-child(2) button")
    assert page.run(first) == by_gold


def test_prompts_are_paged_one_at_a_time(page: Tab) -> None:
    asked = page.run("[...document.querySelectorAll('[data-asked]')].map(e => Number(e.dataset.prompt))")
    assert page.run(SHOWN) == asked[:1]
    assert page.run("document.querySelector('#previous').disabled")
    page.press("#next")
    page.press("#next")
    assert page.run(SHOWN) == asked[2:3]
    assert page.run("document.querySelector('#count').textContent") == "3 of 24"
    page.press("#previous")
    assert page.run(SHOWN) == asked[1:2]
    for _ in range(30):
        page.press("#next")
    assert page.run(SHOWN) == asked[-1:]
    assert page.run("document.querySelector('#next').disabled")


def test_prompts_are_picked_found_and_shown_all_at_once(page: Tab) -> None:
    choose(page, "#pick", "7")
    assert page.run(SHOWN) == [7]
    choose(page, "#find", "ONERROR")
    assert page.run(SHOWN) == [0]
    assert page.run("document.querySelector('#count').textContent").endswith("prompts match")
    assert page.run("CSS.highlights.get('found').size") >= 2  # in the prompt and in the answer
    choose(page, "#find", "no answer says this")
    assert page.run(SHOWN) == []
    choose(page, "#find", "")
    assert page.run(SHOWN) == [7]
    choose(page, "#pick", "")
    assert len(page.run(SHOWN)) == 24


def test_the_largest_disagreement_comes_first(page: Tab, made: Made) -> None:
    page.press("#controls input[value=disagreed]")
    choose(page, "#pick", "")
    rows = [made[2].arm(arm)[0].rows["test"].gold for arm in made[1]["arms"]]
    apart = sorted((max(gold) - min(gold) for gold in zip(*rows, strict=True)), reverse=True)
    facts = page.run(
        "[...document.querySelectorAll('article.prompt:not([data-hidden]) > .facts')].map(e => e.textContent)"
    )
    assert [text.split("gold rewards ")[1].split()[0] for text in facts] == [number(float(x)) for x in apart[:24]]


def test_reward_up_gold_down_finds_the_answer_that_only_the_reward_model_likes(page: Tab, made: Made) -> None:
    page.press("#controls input[value=hacked]")
    (first,) = page.run(SHOWN)
    shown = "document.querySelector('article.prompt:not([data-hidden])')"
    assert first == page.run(f"Number({shown}.dataset.prompt)")
    assert "test-0005" in page.run(f"{shown}.querySelector('.facts').textContent")
    dpo, rlaif = (str(list(made[1]["arms"]).index(arm)) for arm in ("dpo", "rlaif"))
    flagged = page.run(
        f"[...{shown}.querySelectorAll('.card')].filter(e => e.querySelector('.flag')).map(e => e.dataset.arm)"
    )
    assert dpo in flagged
    assert rlaif not in flagged  # another reward model: its scores cannot be held against the control's
    assert "0" not in flagged  # the control is what the others are measured by


def test_the_keyboard_reaches_and_works_every_control(page: Tab) -> None:
    wanted = {"axis", "metric", "previous", "next", "pick", "find", "view", "arm", "download"}
    name = "(e => e.id || e.name || e.className || e.tagName)(document.activeElement)"
    reached = []
    for _ in range(120):
        page.key("Tab", 9)
        reached.append(page.run(name))
        if reached[-1] == "download":
            break
    assert wanted - {"previous"} <= set(reached)  # at the first prompt there is no previous one
    assert reached[0] == "skip"
    page.run("document.querySelector('#controls input[value=asked]').focus()")
    page.key("ArrowRight", 39)
    assert page.run("document.querySelector('input[name=view]:checked').value") == "disagreed"
    unnamed = (
        "[...document.querySelectorAll('button, select, input, a, [tabindex]')].filter(e => !(e.innerText.trim()"
        " || e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)"
    )
    assert page.run(unnamed) == []


def test_the_summary_in_the_page_is_the_file(page: Tab, made: Made) -> None:
    inside = page.run("JSON.parse(document.getElementById('summary').textContent)")
    assert inside == made[1] == json.loads((made[0].parent / "summary.json").read_text())


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_sticks_out_of_the_window(tab: Tab, made: Made, width: int) -> None:
    tab.open(made[0].as_uri(), width=width)
    for name in tab.run("[...document.querySelectorAll('.plot')].map(e => e.dataset.plot)"):
        drawn(tab, f'[data-plot="{name}"]')
    assert tab.run("document.documentElement.scrollWidth") <= width
    # Tables scroll in their own frames; every other box must fit into the window.
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, [hidden], .stack thead')"
        f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert tab.run(wide) == []
    if width < 760:
        frames = "[...document.querySelectorAll('.stack')].map(e => e.closest('.scroll'))"
        # The table of the arms is stacked, not scrolled.
        assert tab.run(f"{frames}.filter(e => e.scrollWidth > e.clientWidth).length") == 0


def test_the_page_follows_the_readers_theme(tab: Tab, made: Made) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    mark = "getComputedStyle(document.querySelector('[data-plot=forest] .points path')).fill"
    found = []
    colours = []
    for dark in (False, True):
        tab.open(made[0].as_uri(), dark=dark)
        found.append(sum(int(x) for x in tab.run(background)[4:-1].split(",")))
        drawn(tab, "[data-plot=forest]")
        colours.append(tab.run(mark))
    assert found[0] > 700
    assert found[1] < 150
    assert colours[0] != colours[1]


@pytest.mark.slow
def test_a_thousand_trials_open_quickly(tmp_path: Path) -> None:
    """200 arms of 5 seeds and 256 answers: written in seconds, open in under 3 s; resamples are no part of that."""
    results = LargeStudy(tmp_path).make().load()
    summary = full(summarise(results, settings=Resampling(resamples=40)))
    begun = time.perf_counter()
    path = write_report(results, summary, tmp_path / "out")
    assert time.perf_counter() - begun < 10.0
    with browser(tmp_path / "browser" / "profile") as tab:
        tab.open("data:text/html,warm")
        for width in (1280, 390):
            begun = time.perf_counter()
            tab.open(path.as_uri(), width=width)
            headline = tab.run("document.querySelector('h1').innerText")
            assert time.perf_counter() - begun < 3.0
            assert headline == summary["verdict"]["headline"]
            assert tab.run("document.documentElement.scrollWidth") <= width
            assert len(tab.run(CARDS)) == 12
        assert tab.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []


def test_without_a_browser_these_tests_skip_but_fail_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        chromium()
