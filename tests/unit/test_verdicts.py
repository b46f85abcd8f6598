"""The file of kept answers: found by content, shared by processes, readable, and honest about what is wrong with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rft.errors import UserError
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Message, Reply, Request

IDENTITY = {"backend": "known", "model": "m"}
SAID: Message = {"role": "user", "content": "Which is better, “A” or B? 😀"}
REQUEST = Request((SAID,), ("A", "B"), 0, 0)
REPLY = Reply("", (-0.1, -2.5), 12, 1, 0.25, 0.001)
ROOT = Path(__file__).parents[2]


def test_a_reply_is_found_by_all_that_it_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "store" / "verdicts.sqlite"
    kept = KeptVerdicts(path, {"model": "digest"})
    assert kept.find(IDENTITY, REQUEST) is None
    assert not kept.holds(IDENTITY)
    assert not path.exists()
    kept.keep(IDENTITY, REQUEST, REPLY)
    assert kept.find(IDENTITY, REQUEST) == REPLY
    assert kept.find({**IDENTITY, "model": "n"}, REQUEST) is None
    assert kept.holds(IDENTITY)
    assert not kept.holds({**IDENTITY, "model": "n"})
    assert KeptVerdicts(path, {"model": "other"}).find(IDENTITY, REQUEST) is None
    for other in (
        Request((SAID,), ("B", "A"), 0, 0),
        Request((SAID,), ("A", "B"), 1, 0),
        Request((SAID,), ("A", "B"), 0, 1),
        Request((SAID, SAID), ("A", "B"), 0, 0),
    ):
        assert kept.find(IDENTITY, other) is None


def test_the_first_reply_stays(tmp_path: Path) -> None:
    kept = KeptVerdicts(tmp_path / "v.sqlite", {})
    kept.keep(IDENTITY, REQUEST, REPLY)
    kept.keep(IDENTITY, REQUEST, Reply("other", None, 1, 1, 1.0))
    assert kept.find(IDENTITY, REQUEST) == REPLY


def test_a_reply_that_could_not_be_read_gives_way_once(tmp_path: Path) -> None:
    """Two stages that found the same one replace it: the first new one stays, and is read under its own time."""
    path = tmp_path / "v.sqlite"
    stale, second = Reply("Both \ud83d", None, 1, 1, 0.5), Reply("B", None, 1, 1, 0.5)
    KeptVerdicts(path, {}).keep(IDENTITY, REQUEST, stale)
    before = next(KeptVerdicts(path, {}).rows()).created
    one, other = KeptVerdicts(path, {}), KeptVerdicts(path, {})
    assert one.find_many([(IDENTITY, REQUEST)], own=True) == [None]
    one.replace(IDENTITY, REQUEST, stale, REPLY)
    other.replace(IDENTITY, REQUEST, stale, second)
    for kept in (one, other):
        assert kept.find_many([(IDENTITY, REQUEST)], own=True) == [REPLY]
    assert KeptVerdicts(path, {}).find(IDENTITY, REQUEST) == REPLY
    (row,) = one.rows()
    assert row.created > before


def test_many_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    """More than one query looks for at once; a reply that JSON cannot write leaves none of its companions behind."""
    kept, count = KeptVerdicts(tmp_path / "v.sqlite", {}), 1203
    requests = [Request(({"role": "user", "content": str(i)},)) for i in range(count)]
    kept.keep_many([(IDENTITY, one, Reply(str(i), None, 1, 1, 0.0)) for i, one in enumerate(requests) if i % 2])
    found = kept.find_many([(IDENTITY, one) for one in requests])
    assert [reply and reply.text for reply in found] == [str(i) if i % 2 else None for i in range(count)]
    assert kept.find_many([]) == []
    with pytest.raises(TypeError):
        kept.keep_many([(IDENTITY, requests[0], REPLY), (IDENTITY, requests[2], Reply("", (object(),), 1, 1, 0.0))])  # type: ignore[arg-type]
    assert kept.find(IDENTITY, requests[0]) is None


def test_without_recall_it_keeps_and_does_not_look(tmp_path: Path) -> None:
    kept = KeptVerdicts(tmp_path / "v.sqlite", {}, recall=False)
    kept.keep(IDENTITY, REQUEST, REPLY)
    assert kept.find(IDENTITY, REQUEST) is None
    assert KeptVerdicts(tmp_path / "v.sqlite", {}).find(IDENTITY, REQUEST) == REPLY


def test_all_rows_can_be_read(tmp_path: Path) -> None:
    kept = KeptVerdicts(tmp_path / "v.sqlite", {"model": "digest"})
    assert list(kept.rows()) == []
    second = Request((SAID,), (), 20, 2)
    half = Reply("half a character \ud83d", None, 3, 4, 0.5)
    kept.keep(IDENTITY, REQUEST, REPLY)
    KeptVerdicts(kept.path, {}).keep({"backend": "b"}, second, half)
    last, first = kept.rows()
    assert (first.known, first.judge, first.request, first.reply) == ({"model": "digest"}, IDENTITY, REQUEST, REPLY)
    assert (last.known, last.request, last.reply) == ({}, second, half)
    assert first.created <= last.created


WRITER = """
import sys
from pathlib import Path
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Reply, Request
kept, who = KeptVerdicts(Path(sys.argv[1]), {}), int(sys.argv[2])
sys.stdin.read()
for i in range(40):
    for owner in (who, 9):
        kept.keep({}, Request(({"role": "user", "content": f"{owner} {i}"},)), Reply(str(who), None, 1, 1, 0.0))
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """All four wait for their input to close, then make the file and write into it together."""
    path = tmp_path / "v.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, cwd=ROOT) for n in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(120) for writer in writers] == [0] * 4
    said = [row.request.messages[0]["content"] for row in KeptVerdicts(path, {}).rows()]
    assert sorted(said) == sorted(f"{owner} {i}" for owner in (0, 1, 2, 3, 9) for i in range(40))


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE verdicts (x)")


def other_reply(path: Path) -> None:
    KeptVerdicts(path, {}).keep(IDENTITY, REQUEST, REPLY)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE verdicts SET reply = '{'")


def torn(path: Path) -> None:
    kept = KeptVerdicts(path, {})
    for attempt in range(30):
        kept.keep(IDENTITY, Request((SAID,), ("A", "B"), 0, attempt), REPLY)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x07" * (len(whole) - 4096))


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b"no database" * 99), lambda path: path.touch(), other_program, other_reply, torn],
)
def test_a_file_that_is_none_is_told_in_one_line(spoil: object, tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()
    kept = KeptVerdicts(path, {})
    with pytest.raises(UserError, match=r"v\.sqlite: .*move it away") as told:
        kept.find(IDENTITY, REQUEST)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="move it away"):
        list(kept.rows())
    if spoil is not other_reply:
        with pytest.raises(UserError, match="move it away"):
            kept.keep(IDENTITY, REQUEST, REPLY)
    assert path.read_bytes() == before


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who owns nothing, if this is the superuser, whom no mode bits stop."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_store_that_cannot_be_written_to_can_be_read() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        kept = KeptVerdicts(folder / "v.sqlite", {})
        kept.keep(IDENTITY, REQUEST, REPLY)
        (folder / "v.sqlite").chmod(0o444)
        folder.chmod(0o555)
        with nobody():
            assert kept.find(IDENTITY, REQUEST) == REPLY
            assert len(list(kept.rows())) == 1
            with pytest.raises(UserError, match="see that you may write there"):
                kept.keep(IDENTITY, Request((SAID,)), REPLY)
            with pytest.raises(UserError, match="see that you may write there"):
                KeptVerdicts(folder / "new" / "v.sqlite", {}).keep(IDENTITY, REQUEST, REPLY)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# Writes more than sqlite holds in memory, and is killed before it says that it is done.
KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE verdicts SET reply = 'torn' || hex(randomblob(2000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_has_not_finished_is_taken_back_where_machines_share_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rft.feedback.judges.cache.is_shared", lambda _: True)
    path = tmp_path / "v.sqlite"
    asked = [(IDENTITY, Request((SAID,), ("A", "B"), 0, n)) for n in range(200)]
    KeptVerdicts(path, {}).keep_many([(*one, REPLY) for one in asked])
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert path.with_name("v.sqlite-journal").exists(), "the writer was killed too early, or in a WAL"
    assert KeptVerdicts(path, {}).find_many(asked) == [REPLY] * 200
