"""The picture of a watched study: what it says, and that it fits."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from rft.study.ledger import Ledger
from rft.study.owner import owner
from rft.study.picture import Frame, labels, picture
from rft.study.rows import Row, State
from rft.study.sparkline import BLOCKS
from rft.study.watched import Watched


def row(arm: str, seed: int = 0, identity: str = "0a1b2c3d") -> Row:
    return Row(f"{arm}-s{seed}-{identity}", identity, arm, seed, (f"algorithm={arm}",))


def drawn(study: Path, width: int = 120, height: int | None = None, metrics: tuple[str, ...] = ()) -> list[str]:
    watched, text = Watched(study), io.StringIO()
    Console(file=text, width=width).print(picture(watched, watched.look(), Frame(width, height, BLOCKS, metrics)))
    return text.getvalue().rstrip("\n").split("\n")


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    """A study whose launcher is alive: ppo trains, dpo is done, kto has failed, sft waits."""
    folder = tmp_path / "first"
    ledger, rows = Ledger(folder), [row("ppo"), row("dpo"), row("kto"), row("sft")]
    shared = Row("shared/ppo-candidates", "", "ppo", None, ())
    ledger.submit([*rows, shared], {})
    for one in (*rows, shared):
        (folder / one.name).mkdir(parents=True)
    curve = [{"step": float(n), "rollout/reward": n / 10, "rollout/kl": 2.0 * n} for n in range(1, 9)]
    (folder / rows[0].name / "curves.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in curve))
    bar = {"description": "ppo seed 0", "done": 8, "total": 40, "elapsed": 3.0}
    (folder / rows[0].name / "progress.json").write_text(json.dumps(bar))
    bar |= {"description": "labels", "done": 3, "total": None}
    (folder / shared.name / "progress.json").write_text(json.dumps(bar))
    history = [{"step": float(n), "train/accuracy": 0.5 + n / 10} for n in range(4)]
    (folder / rows[1].name / "history.json").write_text(json.dumps(history))
    record = {"arm": "dpo", "status": "done", "metrics": {"eval/test/gold": 0.75, "eval/ood/gold": 0.5}}
    (folder / rows[1].name / "trial.json").write_text(json.dumps(record))
    with owner(folder) as me:
        ledger.claim([*(one.name for one in rows[:3]), shared.name], me, 4)
        ledger.end(rows[1].name, State.done)
        ledger.end(rows[2].name, State.failed, "boom")
        yield folder


def test_a_line_a_trial_with_state_progress_curves_and_final_test(study: Path) -> None:
    lines = drawn(study, 200)
    assert lines[0] == "first: 1 queued, 1 running, 1 done, 1 failed"
    by_name = {line.split()[0]: line for line in lines[3:]}
    assert list(by_name) == ["shared/ppo-candidates", "ppo-s0", "dpo-s0", "kto-s0", "sft-s0"]
    assert re.search(r" running  training 8/40, \d+ s  ▁▂▃▄▅▆▇█", by_name["ppo-s0"])
    assert by_name["ppo-s0"].split()[-1] == "16"  # the last KL
    assert by_name["dpo-s0"].split()[-2:] == ["0.8", "0.75"]  # the last accuracy, the final test
    assert "labels 3" in by_name["shared/ppo-candidates"]
    assert "reward" in lines[1]
    assert "▁0.1 █0.8" in lines[2]
    assert "nobody" not in lines[-1]


def test_it_says_when_nobody_is_at_work_and_how_to_go_on(study: Path) -> None:
    for lock in (study / ".launchers").iterdir():
        lock.unlink()
    assert drawn(study)[0] == "first: 1 queued, 1 done, 1 failed, 1 interrupted"
    assert drawn(study)[-3:] == [
        "nobody is at work",
        "rft resume first goes on with the 2 that wait or were interrupted",
        "rft retry first starts those that failed once more",
    ]


def test_other_curves_are_shown_if_they_are_asked_for(study: Path) -> None:
    lines = drawn(study, metrics=("rollout/kl", "train/nothing"))
    assert lines[1].split() == ["rollout/kl", "train/nothing"]
    assert lines[2].split()[:4] == ["trial", "state", "▁2", "█16"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_fits_the_width(study: Path, width: int) -> None:
    lines = drawn(study, width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 8  # nothing is folded
    assert any(block in lines[4] for block in BLOCKS[1:])


def test_it_fits_the_height_with_what_matters(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    ledger, rows = Ledger(folder), [row("ppo", seed) for seed in range(100)]
    ledger.submit(rows, {})
    with owner(folder) as me:
        ledger.claim([rows[60].name, rows[70].name], me, 2)
        ledger.end(rows[70].name, State.failed, "boom")
        lines = drawn(folder, 100, 24)
    assert len(lines) <= 24
    shown = [line.split()[0] for line in lines[2:-1]]
    assert {"ppo-s60", "ppo-s70"} <= set(shown)
    assert shown == sorted(shown, key=lambda name: int(name.rpartition("s")[2]))
    assert lines[-1] == f"and {100 - len(shown)} more: {100 - len(shown)} queued"


def test_trials_that_are_called_alike_are_told_apart() -> None:
    one, two, three = row("ppo", 0, "aaaaaaaa"), row("ppo", 0, "bbbbbbbb"), row("ppo", 1)
    assert labels([one, two, three]) == [one.name, two.name, "ppo-s1"]


def test_a_damaged_file_hides_no_other_trial(study: Path) -> None:
    for file in study.glob("*/*.json*"):
        file.write_text("{")
    assert len(drawn(study)) == 7


def test_a_file_is_read_again_only_if_it_is_another(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(study)
    done = next(one for one in watched.look().trials if one.state is State.done)
    first = watched.see(done)
    assert watched.see(done).history is first.history
    (study / done.name / "history.json").write_text('[{"step": 1.0}]')
    assert watched.see(done).history == [{"step": 1.0}]
