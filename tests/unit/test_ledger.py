"""The ledger: one claims and the others do not, what the dead leave, and what is left of a damaged file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from rft.errors import UserError
from rft.store import Store, space
from rft.store.names import PLAN
from rft.store.running import at_work
from rft.study.account import table
from rft.study.ledger import Ledger
from rft.study.ledger_file import FILE
from rft.study.owner import is_alive, launchers, owner
from rft.study.reading import GONE, rows_of
from rft.study.rows import Row, State
from rft.study.slots import Demand
from rft.study.versions import versions

CLAIMER = """
import sys, time
from pathlib import Path
from rft.study.ledger import Ledger
from rft.study.owner import owner
from rft.study.rows import State

study, go, hold = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "hold"
names = [f"a-s{n}-00000000" for n in range(20)]
with owner(study) as me:
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.001)
    ledger = Ledger(study)
    while taken := ledger.claim(names, me):
        print(taken[0].name, flush=True)
        if hold:
            time.sleep(600)
        time.sleep(0.002)
        ledger.end(taken[0].name, State.done)
"""


# Opens the file a second time, so that what it writes stays in the WAL, and dies.
WRITER = """
import os, signal, sqlite3, sys
from pathlib import Path
from rft.study.ledger import Ledger
from rft.study.ledger_file import FILE
from rft.study.rows import Row

study = Path(sys.argv[1])
ledger = Ledger(study)
held = sqlite3.connect(study / FILE)
held.execute("SELECT * FROM trials").fetchall()
for n in (1, 2):
    ledger.submit([Row(f"a-s{n}-00000000", "00000000", "a", n, ())], {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def row(number: int, **more: object) -> Row:
    return Row(f"a-s{number}-00000000", "00000000", "a", number, ("algorithm=sft", f"seed={number}"), **more)  # type: ignore[arg-type]


def states(ledger: Ledger) -> dict[int | None, str]:
    return {one.seed: one.state.value for one in ledger.rows()}


def claimer(study: Path, go: Path, how: str = "on") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(study), str(go), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_eight_processes_claim_each_trial_once(tmp_path: Path) -> None:
    study, go = tmp_path / "study", tmp_path / "go"
    Ledger(study).submit([row(n) for n in range(20)], {})
    processes = [claimer(study, go) for _ in range(8)]
    go.touch()
    claimed = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert sorted(claimed) == sorted(row(n).name for n in range(20))
    rows = Ledger(study).rows()
    assert {(one.state, one.attempts) for one in rows} == {(State.done, 1)}
    assert launchers(study) == []


def test_eight_processes_make_one_ledger(tmp_path: Path) -> None:
    go = tmp_path / "go"
    processes = [claimer(tmp_path / "study", go) for _ in range(8)]
    go.touch()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_no_secret_of_the_environment_is_kept_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-of-a-ledger")
    ledger = Ledger(tmp_path)
    ledger.submit([Row("a-s0-00000000", "0", "a", 0, ())], {})
    ledger.end("a-s0-00000000", State.failed, "RuntimeError: canary-of-a-ledger is no good")
    (row,) = ledger.rows()
    assert row.error == "RuntimeError: … is no good"
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_a_killed_claimer_had_is_interrupted_and_can_be_claimed(tmp_path: Path) -> None:
    study, go = tmp_path / "study", tmp_path / "go"
    ledger = Ledger(study)
    ledger.submit([row(0), row(1)], {})
    go.touch()
    process = claimer(study, go, "hold")
    assert process.stdout is not None
    assert process.stdout.readline() == f"{row(0).name}\n"
    assert states(ledger) == {0: "running", 1: "queued"}
    with owner(study) as me:
        assert ledger.claim([row(0).name], me) == []  # its claimer lives
        process.kill()
        process.wait()
        assert states(ledger) == {0: "interrupted", 1: "queued"}
        (study / row(0).name).mkdir()
        with at_work(study / row(0).name):
            assert states(ledger)[0] == "running"  # the launcher is gone, and the trial's own process is not
            assert ledger.claim([row(0).name], me) == []
        assert [one.name for one in ledger.claim([row(0).name], me)] == [row(0).name]
    assert ledger.rows()[0].attempts == 2
    assert states(ledger)[0] == "interrupted"  # I am no launcher any more


def test_a_trial_that_was_killed_by_itself_is_started_again_only_if_it_is_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(0), row(1)], {})
    with owner(tmp_path) as me:
        ledger.claim([row(0).name, row(1).name], me, 2)
        ledger.end(row(0).name, State.interrupted, "killed by signal 9")
        ledger.end(row(1).name, State.interrupted, "stopped", owner=me)
    with owner(tmp_path) as other:
        assert [one.seed for one in ledger.claim([row(0).name, row(1).name], other, 2)] == [1]
        ledger.submit([row(0)], {})
        assert ledger.claim([row(0).name], other) == []
        ledger.submit([row(0)], {row(0).name: {State.interrupted}})
        assert [one.seed for one in ledger.claim([row(0).name], other)] == [0]


def test_plan_order_decides_what_starts_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(n) for n in (3, 1, 2)], {})
    with owner(tmp_path) as me:
        names = {row(n).name for n in (1, 2, 3)}
        assert [ledger.claim(names, me)[0].seed for _ in names] == [3, 1, 2]


def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(0), row(1)], {})
    with owner(tmp_path) as me:
        ledger.claim([row(0).name], me)
        monkeypatch.setattr(time, "time", lambda: 5.0)
        ledger.beat({row(0).name: ("node-3", 17)})
        assert (ledger.rows()[0].host, ledger.rows()[0].pid) == ("node-3", 17)
        assert states(ledger) == {0: "running", 1: "queued"}
        with owner(tmp_path) as other:
            assert [one.seed for one in ledger.claim([row(0).name, row(1).name], other, 2)] == [1]
        ledger.end(row(0).name, State.done)
    assert states(ledger) == {0: "done", 1: "interrupted"}


def record(study: Path, number: int, **more: object) -> None:
    folder = study / row(number).name
    folder.mkdir(parents=True)
    told = {"arm": "a", "seed": number, "status": "done", "overrides": [f"seed={number}"], "versions": "v"}
    (folder / "trial.json").write_text(json.dumps(told | more), encoding="utf-8")


@pytest.mark.parametrize("damage", ["garbage", "half", "empty", "tables", "page"])
def test_a_damaged_ledger_is_named_moved_aside_and_made_from_the_records(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path).submit([row(n, error="x" * 3000) for n in range(20)], {})
    record(tmp_path, 0)
    record(tmp_path, 1, status="failed", error="the loss is NaN")
    record(tmp_path, 2, status="failed", error="interrupted; start it again")
    (tmp_path / row(3).name).mkdir()
    (tmp_path / row(3).name / ".running").touch()  # of a trial that was killed
    file = tmp_path / FILE
    whole = file.read_bytes()
    assert len(whole) > 40000
    if damage == "tables":
        file.unlink()
        sqlite3.connect(file).execute("CREATE TABLE other (x)").connection.close()
    else:
        middle = whole[:9000] + os.urandom(8000) + whole[17000:]
        file.write_bytes(
            {"garbage": b"no ledger" * 999, "half": whole[: len(whole) // 2], "empty": b""}.get(damage, middle)
        )
    before = file.read_bytes()
    if damage == "tables":
        with pytest.raises(UserError, match=f"{FILE}: is another program's file"):
            Ledger(tmp_path)
        assert file.read_bytes() == before
        return
    told: list[str] = []
    ledger = Ledger(tmp_path, told.append)
    assert len(told) == 1
    assert str(file) in told[0]
    assert f"{FILE}.damaged-1" in told[0]
    assert (tmp_path / f"{FILE}.damaged-1").read_bytes() == before
    waiting = dict.fromkeys(range(4, 20), "queued")
    assert states(ledger) == {0: "done", 1: "failed", 2: "interrupted", 3: "interrupted", **waiting}
    assert [one.seed for one in ledger.rows()] == list(range(20))
    first = ledger.rows()[0]
    assert (first.name, first.id, first.overrides, first.versions) == (row(0).name, "00000000", row(0).overrides, "v")
    told.clear()
    Ledger(tmp_path, told.append)
    assert told == []


def test_a_ledger_that_is_damaged_while_it_is_used_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    ledger = Ledger(tmp_path, told.append)
    record(tmp_path, 0)
    ledger.submit([row(1)], {})
    (tmp_path / FILE).write_bytes(b"no ledger" * 999)
    ledger.submit([row(2)], {})
    assert len(told) == 1
    assert states(ledger) == {0: "done", 1: "queued", 2: "queued"}


def test_what_only_the_ledger_said_is_in_the_one_that_is_made(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(n) for n in (2, 0, 1)], {})
    ledger.note("origin", {"file": "study.yaml"})
    ledger.cancel([row(0).name])
    (tmp_path / FILE).unlink()
    again = Ledger(tmp_path)
    assert [(one.seed, one.state.value) for one in again.rows()] == [(2, "queued"), (0, "cancelled"), (1, "queued")]
    assert again.noted("origin") == {"file": "study.yaml"}


@pytest.mark.parametrize("damage", ["half", "garbage", "list", "row"])
def test_with_a_damaged_plan_too_it_is_made_from_the_records(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path).submit([row(0), row(1)], {})
    record(tmp_path, 0)
    whole = (tmp_path / PLAN).read_bytes()
    made = {"half": whole[: len(whole) // 2], "garbage": os.urandom(500), "list": b"[1]", "row": b'{"trials": [{}]}'}
    (tmp_path / PLAN).write_bytes(made[damage])
    (tmp_path / FILE).write_bytes(b"no ledger" * 999)
    assert states(Ledger(tmp_path)) == {0: "done"}


@pytest.mark.parametrize("damage", ["half a frame", "garbage", "no frames", "gone"])
def test_a_half_written_wal_loses_no_trial(tmp_path: Path, damage: str) -> None:
    record(tmp_path, 0)
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False)  # killed while it has the file open
    wal = tmp_path / f"{FILE}-wal"
    data = wal.read_bytes()
    assert len(data) > 8000
    if damage == "gone":
        wal.unlink()
    else:
        # A frame has a head of 24 bytes, and before the first one there are 32.
        halves = {"half a frame": data[: len(data) - 2000], "no frames": data[:32]}
        wal.write_bytes(halves.get(damage, data[:2000] + os.urandom(len(data) - 2000)))
    told: list[str] = []
    assert states(Ledger(tmp_path, told.append)) == {0: "done", 1: "queued", 2: "queued"}
    assert len(told) == 1
    assert row(2).name in told[0]


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path).submit([row(0)], {})
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("ALTER TABLE trials RENAME COLUMN forks TO starts_as")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(UserError, match=rf"{FILE}: is of a newer version of rft \(schema 2; this one has 1\)"):
        Ledger(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_launcher_keeps_what_it_runs_when_the_ledger_is_made_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(0)], {})
    with owner(tmp_path) as me:
        ledger.claim([row(0).name], me)
        (tmp_path / FILE).write_bytes(b"no ledger" * 999)
        assert states(ledger) == {0: "queued"}  # its process has no lock yet
        ledger.adopt(row(0), me)
        with owner(tmp_path) as other:
            assert ledger.claim([row(0).name], other) == []
        assert states(ledger) == {0: "running"}


def test_an_older_study_has_its_records_in_the_ledger_that_is_made(tmp_path: Path) -> None:
    record(tmp_path, 4)
    told: list[str] = []
    assert states(Ledger(tmp_path, told.append)) == {4: "done"}
    assert told == []


def test_cancelled_are_those_that_wait_and_asked_those_that_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.submit([row(n) for n in range(3)], {})
    with owner(tmp_path) as me:
        ledger.claim([row(0).name, row(1).name], me, 2)
        ledger.end(row(1).name, State.done)
        assert ledger.cancel([row(n).name for n in range(3)]) == ([row(2).name], [row(0).name])
        assert ledger.beat({row(0).name: ("", 17)}) == {row(0).name}
        assert ledger.rows()[0].host == socket.gethostname()
        ledger.end(row(0).name, State.cancelled)
    assert states(ledger) == {0: "cancelled", 1: "done", 2: "cancelled"}
    assert ledger.requeue([row(0).name, row(1).name], {State.cancelled}) == [row(0).name]


def test_times_of_the_future_decide_nothing(tmp_path: Path) -> None:
    years = time.time() + 10 * 365 * 86400
    ledger = Ledger(tmp_path)
    ledger.submit([row(n) for n in range(4)], {})
    with owner(tmp_path) as gone:
        ledger.claim([row(0).name, row(1).name], gone, 2)
    with owner(tmp_path) as me:
        ledger.claim([row(2).name], me)
        connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        connection.execute("UPDATE trials SET started = ?, heartbeat = ?", (years, years))
        connection.close()
        for file in tmp_path.rglob("*"):
            os.utime(file, (years, years))
        assert states(ledger) == {0: "interrupted", 1: "interrupted", 2: "running", 3: "queued"}
        ledger.end(row(2).name, State.done)
        times = [*table(ledger.rows(), time.time()).columns[3].cells]
        assert times[2] == "0 s"
        assert not any(str(one).startswith("-") for one in times)
        assert [one.seed for one in ledger.claim([row(n).name for n in range(4)], me, 4)] == [0, 1, 3]


def test_what_is_noted_is_found(tmp_path: Path) -> None:
    Ledger(tmp_path).note("source", {"a": [1]})
    assert Ledger(tmp_path).noted("source") == {"a": [1]}
    assert Ledger(tmp_path).noted("nothing") is None


def test_a_folder_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match=FILE):
        Ledger(tmp_path)


def test_a_launcher_that_is_killed_is_not_alive(tmp_path: Path) -> None:
    process = claimer(tmp_path, tmp_path / "never")
    (name,) = launchers(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_alive(tmp_path, name)
    assert launchers(tmp_path) == []


def test_what_a_trial_takes_is_kept_and_follows_what_is_submitted_until_it_starts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    ledger.submit([row(0), row(1, demand=Demand(2, 3, 0.5))], {})
    assert [one.demand for one in ledger.rows()] == [None, Demand(2, 3, 0.5)]
    ledger.submit([row(0, demand=Demand(1, gpus=None)), row(1)], {})
    assert [one.demand for one in ledger.rows()] == [Demand(1, gpus=None), Demand(2, 3, 0.5)]
    with owner(ledger.study) as me:
        ledger.claim([row(1).name], me)
        ledger.submit([row(1, demand=Demand(9))], {})
        ledger.end(row(1).name, State.failed, "why")
    ledger.requeue([row(1).name], {State.failed})
    assert ledger.rows()[1].demand == Demand(2, 3, 0.5)


def test_a_ledger_of_before_there_were_demands_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    ledger.submit([row(0)], {})
    with sqlite3.connect(tmp_path / "s" / "ledger.sqlite") as connection:
        connection.execute("ALTER TABLE trials DROP COLUMN demand")
    warned: list[str] = []
    (found,) = Ledger(tmp_path / "s", warned.append).rows()
    assert (found, warned) == (row(0), [])


def test_what_is_cancelled_and_gone_with_its_launcher_is_cancelled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    ledger.submit([row(0), row(1)], {})
    with owner(ledger.study) as me:
        assert len(ledger.claim([row(0).name, row(1).name], me, 2)) == 2
        assert ledger.cancel([row(0).name]) == ([], [row(0).name])
        assert states(ledger) == {0: "running", 1: "running"}
    assert states(ledger) == {0: "cancelled", 1: "interrupted"}
    with owner(ledger.study) as another:
        assert [one.seed for one in ledger.claim([row(0).name, row(1).name], another, 2)] == [1]
        assert states(ledger) == {0: "cancelled", 1: "running"}
        assert ledger.requeue([row(0).name], {State.interrupted}) == []
        assert ledger.requeue([row(0).name], {State.cancelled}) == [row(0).name]
        assert [one.seed for one in ledger.claim([row(0).name], another)] == [0]


def test_where_other_machines_see_the_file_it_is_in_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(study: Path) -> str:
        Ledger(study).submit([row(0)], {})
        with closing(sqlite3.connect(study / FILE)) as connection:
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

    kind = space._file_system(tmp_path)
    assert kind, "the system tells the type of every file system that is mounted"
    assert not space.is_shared(tmp_path)
    assert mode(tmp_path / "alone") == "wal"
    monkeypatch.setattr(space, "SHARED", {kind})
    assert mode(tmp_path / "shared") == "delete"
    assert mode(tmp_path / "alone") == "delete", "it was made before, or elsewhere"
    monkeypatch.undo()
    assert Ledger(tmp_path / "shared").rows() == [row(0)]


def test_rows_say_what_is_found_in_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    ledger = Ledger(tmp_path / "s")
    ledger.submit([row(n) for n in range(4)], {})
    for n, code in {0: versions(), 1: versions(), 2: "of before"}.items():
        entry = Store.default().get_or_compute("evaluation", version=1, config={"n": n}, inputs={}, build=lambda _: {})
        (ledger.study / row(n).name).mkdir()
        record = {"status": "done", "evaluation": entry.key, "versions": code}
        (ledger.study / row(n).name / "trial.json").write_text(json.dumps(record), encoding="utf-8")
    with owner(ledger.study) as me:
        ledger.claim([row(n).name for n in range(4)], me, 4)
        ledger.end(row(0).name, State.done)
    kinds = {one.seed: one.state.value for one in rows_of(ledger.study, print)}
    # The second ended after its launcher; the third was started again under other code, and what is there is older.
    assert kinds == {0: "done", 1: "done", 2: "interrupted", 3: "interrupted"}
    shutil.rmtree(ledger.study / row(0).name)
    (gone, *_) = rows_of(ledger.study, print)
    assert (gone.state, gone.error) == (State.interrupted, GONE)
