"""The history of a training that runs: what the file holds while rows come, and when it cannot be written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rft.callbacks import curves
from rft.callbacks.curves import Curves
from rft.study.local import history_of
from rft.study.rows import State


def rows(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_rows_are_added_at_most_once_in_two_seconds_and_all_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(curves.time, "monotonic", lambda: now)
    history: Any = SimpleNamespace(rows=[{"step": 1.0}])
    file = tmp_path / "trial" / "curves.jsonl"
    callback = Curves(history, file)
    callback.on_train_start()
    assert rows(file) == [{"step": 1.0}]  # those of a checkpoint
    for step in range(2, 50):
        now += 0.5
        history.rows.append({"step": float(step), "train/loss": step / 3})
        callback.on_train_epoch_end()
        behind = len(history.rows) - len(rows(file))
        assert behind <= 3
    callback.on_exception()
    assert rows(file) == history.rows
    assert [row["train/loss"] for row in rows(file)[1:]] == [step / 3 for step in range(2, 50)]


def test_a_training_that_begins_again_begins_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "curves.jsonl"
    for last in (9.0, 4.0):
        callback = Curves(SimpleNamespace(rows=[{"step": last}]), file)  # type: ignore[arg-type]
        callback.on_train_start()
        callback.on_train_end()
    assert rows(file) == [{"step": 4.0}]


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history: Any = SimpleNamespace(rows=[{"step": 1.0}])
    callback = Curves(history, tmp_path / "file" / "curves.jsonl")
    callback.on_train_start()
    history.rows.append({"step": 2.0})
    callback.on_train_end()
    assert (tmp_path / "file").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_of_it_is_in_a_checkpoint(tmp_path: Path) -> None:
    assert not Curves(SimpleNamespace(rows=[]), tmp_path / "x").state_dict()  # type: ignore[arg-type]


def test_ten_thousand_rows_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if every row were written by itself, which is a thousand times as often as it happens."""
    monkeypatch.setattr(curves, "SECONDS_BETWEEN_WRITES", 0.0)
    history: Any = SimpleNamespace(rows=[])
    callback = Curves(history, tmp_path / "curves.jsonl")
    callback.on_train_start()
    row = {f"train/{name}": 1 / 3 for name in range(20)}
    started = time.process_time()
    for step in range(10_000):
        history.rows.append({"step": float(step), **row})
        callback.on_train_epoch_end()
    assert time.process_time() - started < 10
    assert len(rows(tmp_path / "curves.jsonl")) == 10_000


def test_a_line_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "curves.jsonl").write_text('{"step": 1.0}\n{"step": 2.0, "train/lo', encoding="utf-8")
    assert history_of(tmp_path, State.running) == [{"step": 1.0}]


def test_the_history_of_an_earlier_start_is_not_shown_for_one_that_runs(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text('[{"step": 9.0}]', encoding="utf-8")
    assert history_of(tmp_path, State.running) == []
    assert history_of(tmp_path, State.done) == [{"step": 9.0}]
    (tmp_path / "curves.jsonl").write_text('{"step": 1.0}\n', encoding="utf-8")
    assert history_of(tmp_path, State.interrupted) == [{"step": 1.0}]
    assert history_of(tmp_path, State.done) == [{"step": 9.0}]
