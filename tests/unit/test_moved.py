"""The log that W&B keeps of a run: read, written again, and brought up to date after a move."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.callbacks.trackers.moved import BLOCK, HEAD, _log, _records, bring_home

START = b":W&B\xe1\xbe\x00"


@pytest.mark.parametrize("lengths", [[5], [0, 3], [BLOCK], [BLOCK - 14, 4], [BLOCK - 18, 9], [3 * BLOCK, 1, 70_000]])
def test_what_is_written_is_read_again_whatever_the_lengths(lengths: list[int]) -> None:
    records = [bytes([number + 1]) * length for number, length in enumerate(lengths)]
    content = START + _log(records)
    assert _records(content) == (records, len(content))


def test_a_record_that_was_not_finished_ends_the_reading(tmp_path: Path) -> None:
    whole = START + _log([b"first", b"second"])
    assert _records(whole[:-1]) == ([b"first"], len(START) + HEAD.size + 5)
    flipped = whole[:-1] + b"?"
    assert _records(flipped)[0] == [b"first"]


def test_paths_are_brought_up_to_date_only_where_they_are_gone(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    record, plain = Record(), Record()
    plain.run.run_id = "0123abcd"
    for name in ("gone", "lost"):
        record.artifact.manifest.contents.add(path=name, local_path=f"/elsewhere/wandb/data/artifacts/staging/{name}")
    run = tmp_path / "wandb" / "offline-run-20260101_000000-0123abcd"
    (run.parent / "data" / "artifacts" / "staging").mkdir(parents=True)
    (here := run.parent / "data" / "artifacts" / "staging" / "gone").write_text("a")
    run.mkdir()
    file = run / "run-0123abcd.wandb"
    tail = HEAD.pack(0, 99, 1) + b"half"
    file.write_bytes(START + _log([plain.SerializeToString(), record.SerializeToString()]) + tail)
    assert bring_home(run)
    (first, second), _ = _records(file.read_bytes())
    assert first == plain.SerializeToString()
    found = Record.FromString(second).artifact.manifest.contents
    assert [one.local_path for one in found] == [str(here), "/elsewhere/wandb/data/artifacts/staging/lost"]
    assert file.read_bytes().endswith(tail)
    assert not bring_home(run)
