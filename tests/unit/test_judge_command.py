"""`rft judge`: the table, the files, the answers that are kept."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rft.cli.app import app
from rft.cli.judge_table import markdown, rows, table, tables
from rft.errors import UserError
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Message, Reply, Request
from rft.store import Store
from rft.store.assets import ASSETS, asset_key
from rft.store.names import VERDICTS_FILE
from tests.integration.harness import TINY

SMALL = (*TINY, "audit.pairs=20", "audit.attack_pairs=2", "audit.again_pairs=5")


@pytest.mark.assets
def test_audit_on_the_tiny_model(tmp_path: Path) -> None:
    run = CliRunner()
    result = run.invoke(app, ["judge", "audit", *SMALL, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for words in (
        "few_shot, pointwise, tiny",
        "agrees with people",
        "labels of ai",
        "choose_this",
    ):
        assert words in result.output
    assert max(len(line) for line in result.output.splitlines() if not line.startswith("written: ")) <= 100
    (audit,) = json.loads((tmp_path / "out" / "audits.json").read_text(encoding="utf-8"))
    assert (audit["human"]["pairs"], audit["order"], audit["self_preference"]) == (20, None, None)
    written = (tmp_path / "out" / "audits.md").read_text(encoding="utf-8")
    assert written.startswith("# Audit of judges")
    assert "| agrees with people |" in written
    two = run.invoke(app, ["judge", "audit", *SMALL, "judge.max_text_tokens=4,256", "--json"])
    assert two.exit_code == 0, two.output
    short, long = json.loads(two.output)
    assert long == audit
    assert short["cost"]["read"] < long["cost"]["read"]


@pytest.mark.assets
def test_an_audit_that_can_read_next_to_nothing_says_so(tmp_path: Path) -> None:
    few = (
        *TINY,
        "audit.pairs=10",
        "audit.attack_pairs=0",
        "audit.again_pairs=0",
        "judge=listwise",
        "judge.max_tokens=4",
    )
    result = CliRunner().invoke(app, ["judge", "audit", *few])
    assert result.exit_code == 0, result.output
    assert "warning: judge listwise: 20 of 20 verdicts could not be read, so its figures say little" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["judge=nope"], "judge=nope: no such option"),
        (["audit.pairs=0"], "audit.pairs=0: audits nothing"),
        (["audit.pairs=ten"], "audit.pairs"),
        (["--strange"], "--strange"),
    ],
)
def test_bad_overrides_are_one_line(overrides: list[str], words: str) -> None:
    error = CliRunner().invoke(app, ["judge", "audit", *overrides]).exception
    assert isinstance(error, UserError)
    assert words in str(error)
    assert "\n" not in str(error)


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 10}


def audited(judge: str, *, attacks: bool = True) -> dict[str, object]:
    """An audit by hand, of a judge that sees both texts."""
    share = figure(0.5)
    return {
        "judge": judge, "form": "pairwise", "model": None,
        "human": {"pairs": 10, "accuracy": share, "auc": None,
                  "ceiling": {"majority": 0.84, "single": 0.8, "half_panel": 0.9}},
        "gold": {"pairs": 10, "accuracy": share},
        "order": {"pairs": 10, "flips": figure(0.25), "same_position": share, "first_shown": share},
        "length": {"pairs": 10, "judge_longer": share, "human_longer": share, "excess": figure(-0.125)},
        "calibration": {"bins": [], "ece": None, "brier": 0.25},
        "self_preference": None, "again": None,
        "unread": {"questions": 20, "retried": 2, "excluded": 1},
        "cost": {"questions": 20, "kept": 4, "read": 1000, "written": 10, "money": 0.5}, "seconds_per_question": 0.5,
        "attacks": {"pairs": 5, "success": share, "control": share,
                    "by_attack": [{"attack": "plea", "success": share}]} if attacks else None,
        "economics": [{"source": "mixed", "share_human": 0.1, "agreement": share, "cost_per_label": 0.0671}],
    }  # fmt: skip


def test_rows_by_hand() -> None:
    found = {row.name: row.cells[0] for row in rows([audited("a")])}
    assert found["flips when the order is swapped"] == ("25 %", "15 to 35 %; 10 pairs")
    assert found["prefers the longer answer"] == (
        "50 %", "40 to 60 %; 10 pairs; people: 50 %; −12 points (−22 to −2) against people",
    )  # fmt: skip
    assert found["verdicts that could not be read"] == ("1", "of 20 questions; 2 asked a second time")
    assert found["cost of the audit"] == (
        "0.50",
        "20 questions, 4 of them answered before; 1,000 tokens read, 10 written",
    )
    assert found["labels of mixed, 10 % by people"] == ("50 %", "40 to 60 %; 10 pairs; 0.067 a label")
    assert not {"tells what people like (AUC)", "says the same when asked again"} & set(found)


def test_judges_stand_side_by_side_and_names_are_no_markup() -> None:
    audits = [audited("[red]a[/red]"), audited("b|c", attacks=False)]
    heads = [str(column.header) for column in table(audits).columns]
    assert heads == ["what was asked", "[red]a[/red], pairwise", "b|c, pairwise", "what is good"]
    lines = markdown(audits).splitlines()
    assert lines[2] == "| what was asked | \\[red\\]a\\[/red\\], pairwise | b\\|c, pairwise | what is good |"
    cells = next(line for line in lines if "plea" in line).split(" | ")
    assert cells[1].startswith("50 % (40 to 60 %; 10 pairs; with a harmless addition 50 %; plea 50 %")
    assert cells[2] == "–"


@pytest.mark.parametrize(
    ("width", "beside"), [(60, [1] * 5), (80, [1] * 5), (100, [2, 2, 1]), (140, [4, 1]), (200, [5])]
)
def test_tables_fit_their_width_with_all_their_words(width: int, beside: list[int]) -> None:
    audits = [audited(f"judge-{name}") for name in "abcde"]
    found = tables(audits, width)
    assert [len(one.columns) - 2 for one in found] == beside
    screen = Console(width=width, file=io.StringIO())
    for one in found:
        screen.print(one)
    written = screen.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, written.splitlines())) <= width
    assert all(f"judge-{name}," in written for name in "abcde")
    for row in rows(audits[:1]):
        for value, _ in row.cells:
            assert value in written


class TestVerdicts:
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("RFT_STORE", str(tmp_path))
        return tmp_path / VERDICTS_FILE

    def fill(self, path: Path) -> None:
        verdicts = KeptVerdicts(path, {"digest": "d"})
        system = Message(role="system", content="Be fair.")
        for number, (question, reply) in enumerate(
            [
                ('Which is "better"?\nA or B', Reply("", (-0.25, -1.5), 9, 1, 0.1)),
                ("A [bold]bright[/bold] film \x1b[31m", Reply("B [/] it [link=x]is", None, 9, 4, 0.1)),
                ("Third question", Reply("three " * 200, None, 9, 400, 0.1)),
            ]
        ):
            request = Request((system, Message(role="user", content=question)), ("A", "B") if number == 0 else ())
            verdicts.keep({"model": f"judge-{number}"}, request, reply)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                moment = f"2026-01-0{number + 1}T10:00:00+00:00"
                connection.execute("UPDATE verdicts SET created = ? WHERE created > '2026-02'", (moment,))

    def test_shows_the_latest_first_and_text_as_it_is(self, store: Path) -> None:
        self.fill(store)
        output = CliRunner().invoke(app, ["judge", "verdicts"]).output
        assert output.index("judge-2") < output.index("judge-1") < output.index("judge-0")
        assert "A: -0.25  B: -1.50" in output
        assert "[bold]bright[/bold] film" in output
        assert "B [/] it [link=x]is" in output
        assert "\x1b[31m" not in output
        assert " … " in output
        assert output.count("three") < 60
        assert CliRunner().invoke(app, ["judge", "verdicts", "--whole"]).output.count("three") == 200
        assert "2026-01-03T10:00:00" in output
        assert max(map(len, output.splitlines())) <= 100

    def test_says_why_there_is_no_verdict(self, store: Path) -> None:
        kept = KeptVerdicts(store, {})
        replies = {
            "long": Reply("", None, 0, 0, 0.0, refused="(400): maximum context length is 8 tokens"),
            "rude": Reply("", None, 9, 4, 0.1, declined="I will not compare these."),
            "mute": Reply(" ", None, 9, 1, 0.1),
        }
        for name, reply in replies.items():
            kept.keep({"model": name}, Request((Message(role="user", content=f"Is {name} good?"),)), reply)
        output = CliRunner().invoke(app, ["judge", "verdicts"]).output
        assert "answer: (the question was not taken) (400): maximum context length is 8 tokens" in output
        assert "answer: (declined) I will not compare these." in output
        assert "answer: (empty)" in output
        output = CliRunner().invoke(app, ["judge", "verdicts", "--find", "will not compare"]).output
        assert "Is rude good?" in output
        assert "Is mute good?" not in output

    def test_names_a_model_in_this_process(self, store: Path) -> None:
        """By the asset or the hub id that it is of, else by its digest."""
        place = Store(store.parent)
        inputs = {"asset": asset_key(ASSETS["smollm2-135m-instruct"])}

        def make(out: Path) -> dict[str, object]:
            (out / "config.json").write_text("{}")
            return {}

        def other(out: Path) -> dict[str, object]:
            (out / "config.json").write_text("{ }")
            return {}

        of_asset = place.get_or_compute("model", version=1, config={}, inputs=inputs, build=make)
        hub = {"hub": "org/name", "revision": None}
        of_hub = place.get_or_compute("model", version=1, config=hub, inputs={}, build=other)
        for digest in (of_asset.digest, of_hub.digest, "0123456789abcdef"):
            request = Request((Message(role="user", content="?"),), ("A", "B"))
            KeptVerdicts(store, {"model": digest}).keep({"backend": "hf"}, request, Reply("A", None, 1, 1, 0.1))
        output = CliRunner().invoke(app, ["judge", "verdicts"]).output
        for words in ("smollm2-135m-instruct", "org/name", "hf 0123456789ab"):
            assert words in output

    def test_find_and_limit(self, store: Path) -> None:
        self.fill(store)
        kept = KeptVerdicts(store, {})
        found = [len(list(kept.rows(text))) for text in ("BRIGHT", '"better"?\nA', "judge-2", "nothing like it")]
        assert found == [1, 1, 1, 0]
        assert [one.judge["model"] for one in kept.rows(limit=2)] == ["judge-2", "judge-1"]
        (one,) = kept.rows('"better"')
        assert (one.reply.logprobs, one.request.options) == ((-0.25, -1.5), ("A", "B"))
        output = CliRunner().invoke(app, ["judge", "verdicts", "--find", "third"]).output
        assert "judge-2" in output
        assert "judge-0" not in output

    def test_of_an_empty_store(self, store: Path) -> None:
        result = CliRunner().invoke(app, ["judge", "verdicts", "--find", "x"])
        assert result.exit_code == 0
        assert result.output.startswith("No answers that hold 'x' are kept")
        assert not store.exists()
