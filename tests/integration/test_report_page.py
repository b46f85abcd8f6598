"""The report in a real browser, from a file and without a network: quiet, self-contained, usable, and safe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft.report import summarise, write_report
from tests.browser import Tab, browser, chromium
from tests.synthetic_study import Study

HOSTILE = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>\' & "<!--'
SHOWN = (
    "[...document.querySelectorAll('article.prompt')].filter(e => e.offsetParent).map(e => Number(e.dataset.prompt))"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report over four arms, one answer and one prompt in it hostile, and a failed trial with a hostile error."""
    root = tmp_path_factory.mktemp("page")
    study = Study(root, prompts=30)

    def hostile(rows: list[dict[str, Any]]) -> None:
        rows[0].update(prompt=HOSTILE)

    def hostile_answer(rows: list[dict[str, Any]]) -> None:
        hostile(rows)
        rows[0].update(response=HOSTILE)

    for arm in ("sft", "dpo", "ppo", "rlaif"):
        for seed in range(3):
            study.trial(arm, seed, change_rows=hostile_answer if arm == "ppo" else hostile)
    study.trial("dpo", 3, change=lambda r: r.update(status="failed", error=HOSTILE, arm=HOSTILE))
    results = study.load()
    summary = summarise(results)
    return write_report(results, summary, root / "out"), summary


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def page(tab: Tab, made: tuple[Path, dict[str, Any]]) -> Tab:
    tab.open(made[0].as_uri())
    return tab


def test_the_browser_has_nothing_to_complain_of_and_asks_for_nothing_else(
    page: Tab, made: tuple[Path, dict[str, Any]]
) -> None:
    page.run("document.querySelector('details').open = true")
    assert page.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    assert [event["request"]["url"] for event in page.of("Network.requestWillBeSent")] == [made[0].as_uri()]


def test_a_fault_in_a_page_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://localhost:9/x.png"><script>console.error("one"); undefined.two()</script>')
    tab.open(bad.as_uri())
    assert len(tab.of("Runtime.exceptionThrown")) == 1
    assert len(tab.of("Runtime.consoleAPICalled")) == 1
    assert len(tab.of("Network.requestWillBeSent")) == 2


def test_hostile_text_stays_text(page: Tab) -> None:
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    first = "document.querySelector('article.prompt')"
    assert page.run(f"{first}.querySelector('h3 .text').textContent") == HOSTILE
    assert page.run(f"{first}.querySelector('[data-arm=\"2\"] .text').textContent").startswith(HOSTILE)
    assert HOSTILE in page.run("document.querySelector('#failed').textContent")


def test_prompts_are_paged_one_at_a_time(page: Tab) -> None:
    assert page.run(SHOWN) == [0]
    assert page.run("document.querySelector('#previous').disabled")
    page.press("#next")
    page.press("#next")
    assert page.run(SHOWN) == [2]
    assert page.run("document.querySelector('#count').textContent") == "3 of 24"
    page.press("#previous")
    assert page.run(SHOWN) == [1]
    for _ in range(30):
        page.press("#next")
    assert page.run(SHOWN) == [23]
    assert page.run("document.querySelector('#next').disabled")


def choose(page: Tab, selector: str, value: str) -> None:
    page.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = {json.dumps(value)};"
        " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_prompts_are_picked_found_and_shown_all_at_once(page: Tab) -> None:
    choose(page, "#pick", "7")
    assert page.run(SHOWN) == [7]
    choose(page, "#find", "ONERROR")
    assert page.run(SHOWN) == [0]
    choose(page, "#find", "no answer says this")
    assert page.run(SHOWN) == []
    choose(page, "#find", "")
    assert page.run(SHOWN) == [7]
    choose(page, "#pick", "")
    assert page.run(SHOWN) == list(range(24))


def test_an_arm_can_be_left_out_of_the_answers(page: Tab) -> None:
    cards = "[...document.querySelectorAll('.card')].filter(e => e.offsetParent).map(e => e.dataset.arm)"
    assert page.run(cards) == ["0", "1", "2", "3"]
    page.press('input[name=arm][value="1"]')
    assert page.run(cards) == ["0", "2", "3"]


def test_the_summary_in_the_page_is_the_file(page: Tab, made: tuple[Path, dict[str, Any]]) -> None:
    assert page.run("JSON.parse(document.getElementById('summary').textContent)") == made[1]


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_sticks_out_of_the_window(tab: Tab, made: tuple[Path, dict[str, Any]], width: int) -> None:
    tab.open(made[0].as_uri(), width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    # Tables scroll in their own frames; every other box must fit into the window.
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, [hidden]')"
        f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert tab.run(wide) == []


def test_the_page_follows_the_readers_theme(tab: Tab, made: tuple[Path, dict[str, Any]]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    found = []
    for dark in (False, True):
        tab.open(made[0].as_uri(), dark=dark)
        found.append(sum(int(x) for x in tab.run(background)[4:-1].split(",")))
    assert found[0] > 700
    assert found[1] < 150


def test_without_a_browser_these_tests_skip_but_fail_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        chromium()
