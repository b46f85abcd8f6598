"""Trials whose labels come from an endpoint: servers that are killed, keys that are wrong, money that runs out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Outcome, Warm, files_under, wait_until
from tests.integration.labelling import KEY, QUESTIONS, Labelling
from tests.openai_server import Servers

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("endpoint"), pytest.mark.timeout(600)]

WRONG = "sk-wrong-d81e0b5599aa3c47"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found = Servers(tmp_path_factory.mktemp("servers"))
    yield found
    found.close()


@pytest.fixture
def labelling(warm: Warm, candidates: Path, tmp_path: Path) -> Labelling:
    return Labelling(warm, candidates, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    warm: Warm, candidates: Path, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The labels of a run that nothing happens to."""
    run = Labelling(warm, candidates, tmp_path_factory.mktemp("undisturbed"))
    server = servers.start(key=KEY)
    outcome = run(server, "tracker=none")
    assert outcome.code == 0, outcome.stderr
    assert len(server.lines("answered")) == QUESTIONS
    found = run.labels()
    assert len(found) == QUESTIONS / 2
    assert len({row["preference"] for row in found}) > 20, "what the judge says depends on what it reads"
    return found


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_loses_nothing_and_answers_nothing_twice(
    labelling: Labelling, servers: Servers, undisturbed: list[dict[str, Any]]
) -> None:
    first = servers.start(key=KEY, delay=0.05)
    labelling.start(first, "tracker=none", "judge.concurrency=4")
    wait_until(lambda: len(first.lines("answered")) >= 20)
    servers.kill(first)
    time.sleep(0.5)
    second = servers.start(key=KEY, port=first.port)
    outcome = labelling.wait()
    assert outcome.code == 0, outcome.stderr
    before, after = first.lines("answered"), second.lines("answered")
    assert 20 <= len(before) < QUESTIONS - 4, "it was killed in the middle"
    assert len(set(before) | set(after)) == len(before) + len(after) == QUESTIONS
    assert labelling.labels() == undisturbed


@pytest.mark.slow
def test_a_run_that_ends_since_the_server_stays_down_goes_on_with_the_rest(
    labelling: Labelling, servers: Servers, undisturbed: list[dict[str, Any]]
) -> None:
    first = servers.start(key=KEY, delay=0.05)
    settings = ("tracker=none", "judge.concurrency=4", "judge.patience=0.5")
    labelling.start(first, *settings)
    wait_until(lambda: len(first.lines("answered")) >= 20)
    servers.kill(first)
    outcome = labelling.wait()
    kept = len(first.lines("answered"))
    assert f"{first.url} cannot be reached" in outcome.error
    assert f"{kept} answers are kept, and the same command goes on from there" in outcome.error
    second = servers.start(key=KEY, port=first.port)
    outcome = labelling(second, *settings)
    assert outcome.code == 0, outcome.stderr
    assert len(second.lines("came")) == QUESTIONS - kept
    assert not set(second.lines("came")) & set(first.lines("answered"))
    assert labelling.labels() == undisturbed
    third = servers.start(key=KEY)
    outcome = labelling(third, *settings, "judge.max_characters=2000", "judge.timeout=59")
    assert outcome.code == 0, outcome.stderr
    assert third.lines("came") == [], "another endpoint with the same model is asked nothing again"


def written(folder: Path, outcome: Outcome) -> str:
    """All that a run left, files and streams, as one text."""
    files = [(folder / name).read_bytes().decode("latin-1") for name in sorted(files_under(folder))]
    return "\n".join([*files, outcome.stdout, outcome.stderr])


def test_the_key_stands_nowhere(labelling: Labelling, servers: Servers) -> None:
    """Right or wrong, with a tracker: no file of runs, store and tracker and no stream holds it or a part of it."""
    server = servers.start(key=KEY)
    trained = ("tracker=wandb", "algorithm=dpo", "algorithm.pairs_per_step=4", "algorithm.epochs=1")
    refused = labelling(server, *trained, key=WRONG, until="policy")
    assert f"{server.url} does not accept the key in JUDGE_KEY" in refused.error
    assert "0 answers are kept" in refused.error
    assert len(server.lines("came")) <= 8
    everything = written(labelling.cwd, refused)
    done = labelling(server, *trained, until="policy")
    assert done.code == 0, done.stderr
    everything += written(labelling.cwd, done)
    assert "JUDGE_KEY" in everything, "the configuration is among what was read"
    assert "verdicts.sqlite" in {Path(name).name for name in files_under(labelling.cwd)}
    assert any("wandb" in Path(name).parts for name in files_under(labelling.cwd))
    for key in (KEY, WRONG):
        for part in (key, key[-8:], key[3:12], key[::-1]):
            assert part not in everything
    assert "sk-wron" not in everything


def test_a_server_that_hangs_ends_the_run_in_one_line(labelling: Labelling, servers: Servers) -> None:
    outcome = labelling(servers.start(fault="hang"), "tracker=none", "judge.timeout=0.3", "judge.patience=0.5")
    assert "gave no answer within 0.3 s (judge.timeout); a chat completion was asked for " in outcome.error
    assert "0 answers are kept" in outcome.error


@pytest.mark.slow
def test_a_cost_cap_holds_under_concurrency_and_raising_it_goes_on(
    labelling: Labelling, servers: Servers, undisturbed: list[dict[str, Any]]
) -> None:
    import sqlite3

    server = servers.start(key=KEY, delay=0.02)
    prices = ("tracker=none", "judge.concurrency=8", "judge.price_read=1000", "judge.price_written=1000")
    outcome = labelling(server, *prices, "judge.max_money=20")
    kept = len(server.lines("answered"))
    assert "judge.max_money=20: " in outcome.error
    assert f"{kept} answers are kept" in outcome.error
    with sqlite3.connect(labelling.store / "verdicts.sqlite") as verdicts:
        query = "SELECT count(*), sum(json_extract(reply, '$.money')) FROM verdicts"
        there, spent = verdicts.execute(query).fetchone()
    assert there == kept
    assert 5 < kept < QUESTIONS - 8
    assert 15 < spent <= 20
    outcome = labelling(server, *prices, "judge.max_money=1000")
    assert outcome.code == 0, outcome.stderr
    assert len(server.lines("answered")) == len(set(server.lines("answered"))) == QUESTIONS
    assert [r["preference"] for r in labelling.labels()] == [r["preference"] for r in undisturbed]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"judge.base_url=https://me:{KEY}@localhost/v1", "judge.base_url: holds a key or a password"),
        ("judge.base_url=https://me:4711@localhost/v1", "judge.base_url: holds a key or a password"),
        ("judge.base_url='http://localhost/v1?api_key=4711'", "judge.base_url: holds a key or a password"),
        (f"judge.key_env={KEY}", "judge.key_env: holds a key or a password"),
        (f"judge.setting='mine is {KEY}'", "judge.setting: holds a key or a password"),
        ("judge.base_url=localhost:8000", "judge.base_url: is no http or https address"),
        ("judge.max_money=3", "judge.max_money: a cost cap needs price_read and price_written"),
        ("judge.price_read=3", "judge.price_read and price_written: give both or none"),
        ("judge.model=???", "judge.model: has no value"),
        ("judge.concurrency=0", "judge.concurrency=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line_that_repeats_no_key(
    warm: Warm, tmp_path: Path, override: str, words: str
) -> None:
    arguments = ["run", "judge=openai", "judge.model=m", "judge.key_env=JUDGE_KEY", override, "model=tiny"]
    outcome = warm(arguments, tmp_path, tmp_path / "store", JUDGE_KEY=KEY)
    assert words in outcome.error
    assert KEY not in outcome.error
    assert "4711" not in outcome.error
    assert files_under(tmp_path) == set()
