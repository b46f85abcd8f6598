"""The store: keys, one computation for many processes, damage found and mended, full and read-only disks."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rft.cli.store import app
from rft.errors import UserError
from rft.store import Entry, Problem, Store
from rft.store import entry as entry_module
from rft.store import store as store_module
from rft.store.locking import file_lock
from rft.store.order import in_any_order

REPOSITORY = Path(__file__).parents[2]
A, B = "a" * 64, "b" * 64
Builder = Callable[[Path], Mapping[str, Any] | None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What a new process knows of checked entries: nothing."""
    return lambda: monkeypatch.setattr("rft.store.store._verified", {})


def write(text: str = "hello", name: str = "data/x.txt") -> Builder:
    def build(folder: Path) -> dict[str, Any]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return {"accuracy": 0.5}

    return build


def never(folder: Path) -> None:
    raise AssertionError("computed although the store has it")


def ask(store: Store, build: Builder, stage: str = "sft", **changes: Any) -> Entry:
    request: dict[str, Any] = {"version": 1, "config": {"lr": 0.1}, "inputs": {"questions": A}} | changes
    return store.get_or_compute(stage, build=build, **request)


def children(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **(pipes | options))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


class TestKey:
    def test_is_sha256_of_canonical_json(self) -> None:
        request = {
            "stage": "sft",
            "version": 2,
            "config": {"b": [1, 2.5, None], "a": True},
            "inputs": {"q": A},
        }
        text = json.dumps(request, sort_keys=True, separators=(",", ":"))
        expected = hashlib.sha256(text.encode()).hexdigest()
        assert Store.key("sft", 2, {"b": [1, 2.5, None], "a": True}, {"q": A}) == expected

    def test_stays_the_same_for_ever(self) -> None:
        # Golden value: a change here makes every store in the world compute anew.
        key = Store.key("sft", 1, {"lr": 1e-4, "name": "Größe"}, {"questions": A})
        assert key == "ff6e3988fbef81497c104d12ee1f168054691da44f81cd0b8a8b9208ecb41bd0"

    def test_ignores_order_and_kind_of_sequence(self) -> None:
        one = Store.key("sft", 1, {"a": 1, "b": {"c": [1, 2], "d": 0.1}}, {"x": A, "y": B})
        two = Store.key("sft", 1, {"b": {"d": np.float64(0.1), "c": (1, np.int64(2))}, "a": 1}, {"y": B, "x": A})
        assert one == two

    @pytest.mark.parametrize(
        "changed",
        [
            ("sfu", 1, {"a": {"b": 1}}, {"x": A}),
            ("sft", 2, {"a": {"b": 1}}, {"x": A}),
            ("sft", 1, {"a": {"b": 2}}, {"x": A}),
            ("sft", 1, {"a": {"b": True}}, {"x": A}),
            ("sft", 1, {"a": {"b": "1"}}, {"x": A}),
            ("sft", 1, {"a": {"b": 1, "c": None}}, {"x": A}),
            ("sft", 1, {"a": {"b": 1}}, {"x": B}),
            ("sft", 1, {"a": {"b": 1}}, {"y": A}),
            ("sft", 1, {"a": {"b": 1}}, {}),
        ],
    )
    def test_feels_every_part(self, changed: tuple[Any, ...]) -> None:
        assert Store.key(*changed) != Store.key("sft", 1, {"a": {"b": 1}}, {"x": A})

    @pytest.mark.parametrize("value", [Path("x"), {1, 2}, object(), b"x", {1: 2}])
    def test_refuses_what_is_no_json(self, value: object) -> None:
        with pytest.raises(TypeError, match=r"config of sft\.deep\[0\]"):
            Store.key("sft", 1, {"deep": [value]}, {})

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses_non_finite_numbers(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"config of sft\.lr"):
            Store.key("sft", 1, {"lr": value}, {})

    @pytest.mark.parametrize("stage", ["", "tmp", "locks", "quarantine", "../x", "A", "a/b", "a.b"])
    def test_refuses_stages_that_are_no_folder(self, stage: str) -> None:
        with pytest.raises(ValueError, match="stage name"):
            Store.key(stage, 1, {}, {})

    def test_refuses_inputs_that_are_no_key(self) -> None:
        with pytest.raises(ValueError, match="'questions'"):
            Store.key("sft", 1, {}, {"questions": "questions.parquet"})


class TestCompute:
    def test_a_store_that_is_not_there_is_empty(self, store: Store) -> None:
        assert store.find("sft", A) is None
        assert not any([list(store.entries()), store.verify(), store.gc(), store.stages()])
        assert not store.root.exists()

    def test_computes_once_and_describes_it(self, store: Store, forget: Callable[[], None]) -> None:
        made = ask(store, write())
        forget()
        assert ask(store, never) == made == store.find("sft", made.key)
        assert made.path == store.root / "sft" / made.key[:16]
        assert (made.path / "data/x.txt").read_text() == "hello"
        assert made.manifest["files"] == {"data/x.txt": {"sha256": hashlib.sha256(b"hello").hexdigest(), "bytes": 5}}
        assert made.manifest["config"] == {"lr": 0.1}
        assert made.inputs == {"questions": A}
        assert made.metrics == {"accuracy": 0.5}
        assert made.size == 5
        assert children(store.root / "tmp") == []

    def test_cost_is_measured(self, store: Store) -> None:
        def work(folder: Path) -> None:
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass

        cost = ask(store, work).cost
        assert cost["seconds"] >= 0.2
        assert 0.15 < cost["cpu_seconds"] < 5
        assert 1e6 < cost["peak_rss_bytes"] < 1e11

    def test_digest_is_of_names_and_contents_alone(self, tmp_path: Path) -> None:
        def digest(number: int, build: Builder, **changes: Any) -> str:
            return ask(Store(tmp_path / str(number)), build, **changes).digest

        first = digest(0, write())
        assert first == digest(1, write()) == digest(2, write(), config={"lr": 9})
        assert len({first, digest(3, write("hallo")), digest(4, write(name="data/y.txt"))}) == 3

    def test_metrics_are_plain_json(self, store: Store) -> None:
        entry = ask(store, lambda folder: {"loss": np.float32(0.5), "n": np.int64(3), "undefined": float("nan")})
        assert entry.metrics == {"loss": 0.5, "n": 3, "undefined": None}

    def test_default_root(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("RFT_STORE", str(tmp_path / "s"))
        assert Store.default().root == tmp_path / "s"
        monkeypatch.delenv("RFT_STORE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert Store.default().root.name == "rft"

    def test_a_build_may_ask_for_other_entries(self, store: Store) -> None:
        def outer(folder: Path) -> None:
            inner = ask(store, write("inner"), "questions")
            shutil.copy(inner.path / "data/x.txt", folder / "copy.txt")

        assert (ask(store, outer).path / "copy.txt").read_text() == "inner"


class TestFailedBuild:
    @pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), UserError("mend it")])
    def test_leaves_nothing(self, store: Store, error: BaseException) -> None:
        def build(folder: Path) -> None:
            (folder / "half.bin").write_bytes(b"x" * 100)
            raise error

        with pytest.raises(type(error)) as caught:
            ask(store, build)
        assert caught.value is error
        assert children(store.root / "sft") == children(store.root / "tmp") == []
        assert ask(store, write()).metrics == {"accuracy": 0.5}

    def test_refuses_links_and_its_own_manifest(self, store: Store) -> None:
        def link(folder: Path) -> None:
            (folder / "x").symlink_to("/etc/hostname")

        with pytest.raises(ValueError, match="x is a symbolic link"):
            ask(store, link)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            ask(store, write(name="manifest.json"))
        with pytest.raises(TypeError, match=r"metrics of sft\.path"):
            ask(store, lambda folder: {"path": folder})
        assert children(store.root / "sft") == children(store.root / "tmp") == []


def flip(path: Path, at: int = 2) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flatter(path: Path) -> None:
    text = path.read_text()
    assert '"accuracy": 0.5' in text
    path.write_text(text.replace('"accuracy": 0.5', '"accuracy": 0.9'))


def overwrite(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


DAMAGE: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "flipped byte": ("data/x.txt", "sha256", flip),
    "truncated": ("data/x.txt", "has 3 bytes, 5 expected", lambda path: os.truncate(path, 3)),
    "file gone": ("data/x.txt", "is missing", Path.unlink),
    "manifest truncated": ("manifest.json", "not readable as JSON", lambda path: os.truncate(path, 40)),
    "manifest not text": ("manifest.json", "not readable as JSON", overwrite(b"\xff\xfe\0")),
    "manifest of something else": ("manifest.json", "lacks fields", overwrite(b"{}")),
    "manifest gone": ("manifest.json", "is missing", Path.unlink),
    "metric changed": ("manifest.json", "checksum", flatter),
}


@pytest.mark.parametrize("damage", DAMAGE)
class TestDamage:
    def test_is_found_reported_and_recomputed(
        self, store: Store, forget: Callable[[], None], caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        name, reason, harm = DAMAGE[damage]
        made = ask(store, write())
        harm(made.path / name)
        forget()
        again = ask(store, write())
        assert again.digest == made.digest
        assert (again.path / "data/x.txt").read_text() == "hello"
        (message,) = (record.getMessage() for record in caplog.records)
        assert f"sft/{made.key[:16]}/{name}" in message
        assert reason in message
        assert len(children(store.root / "quarantine")) == 1
        assert store.verify() == []

    def test_find_gives_none(self, store: Store, forget: Callable[[], None], damage: str) -> None:
        name, _, harm = DAMAGE[damage]
        made = ask(store, write())
        harm(made.path / name)
        forget()
        assert store.find("sft", made.key) is None
        assert not made.path.exists()

    def test_verify_names_it_and_moves_nothing(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        name, reason, harm = DAMAGE[damage]
        made = ask(store, write())
        ask(store, write(), "questions")
        monkeypatch.setenv("RFT_STORE", str(store.root))
        assert CliRunner().invoke(app, ["verify"]).exit_code == 0
        harm(made.path / name)
        result = CliRunner().invoke(app, ["verify"])
        assert result.exit_code == 1
        assert f"sft/{made.key[:16]}/{name}" in result.output
        assert reason in result.output
        assert "rft will recompute it" in result.output
        assert "questions" not in result.output
        assert made.path.exists()


def test_files_are_hashed_once_a_process(store: Store, forget: Callable[[], None]) -> None:
    made = ask(store, write())
    forget()
    assert store.find("sft", made.key) == made
    flip(made.path / "data/x.txt")
    assert store.find("sft", made.key) == made
    assert len(store.verify()) == 1
    assert store.find("sft", made.key) is None


def test_an_entry_that_another_process_takes_away_while_it_is_read(
    store: Store, forget: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ask(store, write())
    forget()
    load = entry_module.load

    def load_and_lose(stage: str, path: Path) -> Entry | Problem | None:
        found = load(stage, path)
        if path.exists():
            path.rename(path.parent.parent / "moved-aside")
        return found

    monkeypatch.setattr(store_module, "load", load_and_lose)
    assert store.find("sft", made.key) is None
    monkeypatch.undo()
    assert ask(store, write()).digest == made.digest


def test_a_folder_under_a_wrong_name_is_not_believed(store: Store) -> None:
    made = ask(store, write())
    other = Store.key("sft", 1, {"lr": 0.2}, {"questions": A})
    made.path.rename(made.path.with_name(other[:16]))
    assert store.find("sft", other) is None


def test_an_entry_of_a_key_that_only_begins_alike_is_not_given(store: Store) -> None:
    made = ask(store, write())
    assert store.find("sft", made.key[:16] + "0" * 48) is None


COMPUTE = """
import os, sys, time
from pathlib import Path
from rft.store import Store
root, calls, hold = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def build(folder):
    with calls.open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    (folder / "half.bin").write_bytes(b"x" * 1000)
    (folder / "started").touch()
    time.sleep(hold)
    (folder / "whole.bin").write_bytes(b"y" * 1000)
request = {"version": 1, "config": {"lr": 0.1}, "inputs": {"questions": "a" * 64}}
entry = Store(root).get_or_compute("sft", build=build, **request)
print(entry.digest, entry.manifest["files"].keys() == {"half.bin", "started", "whole.bin"})
"""


class TestProcesses:
    def test_one_computes_and_the_others_read(self, store: Store, tmp_path: Path) -> None:
        calls = tmp_path / "calls"
        processes = [run_python(COMPUTE, store.root, calls, 1.0) for _ in range(5)]
        outputs = {process.communicate(timeout=60)[0] for process in processes}
        assert [process.returncode for process in processes] == [0] * 5
        assert len(calls.read_text().split()) == 1
        (output,) = outputs
        assert output.endswith(" True\n")

    def test_one_mends_a_corrupt_entry(self, store: Store, tmp_path: Path) -> None:
        calls = tmp_path / "calls"
        assert run_python(COMPUTE, store.root, calls, 0).wait(timeout=60) == 0
        (entry,) = store.entries()
        flip(entry.path / "half.bin")
        processes = [run_python(COMPUTE, store.root, calls, 0.5) for _ in range(4)]
        errors = "".join(process.communicate(timeout=60)[1] for process in processes)
        assert [process.returncode for process in processes] == [0] * 4
        assert len(calls.read_text().split()) == 2
        assert errors.count("corrupt store entry") == 1
        assert f"sft/{entry.key[:16]}/half.bin" in errors

    def test_different_entries_are_computed_side_by_side(self, store: Store, tmp_path: Path) -> None:
        """Each build waits for the other's sign: with one lock for both, neither would end."""
        code = """
import sys, time
from pathlib import Path
from rft.store import Store
root, mine, other = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
def build(folder):
    mine.touch()
    end = time.monotonic() + 20
    while not other.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
Store(root).get_or_compute("sft", version=1, config={"name": mine.name}, inputs={}, build=build)
"""
        one, two = tmp_path / "one", tmp_path / "two"
        processes = [run_python(code, store.root, one, two), run_python(code, store.root, two, one)]
        assert [process.wait(timeout=60) for process in processes] == [0, 0]

    def test_what_another_process_makes_comes_after_the_rest(self, store: Store, tmp_path: Path) -> None:
        """Each build waits for the other's sign: if one waited for the entry that is made, neither would end."""
        code = """
import sys, time
from pathlib import Path
from rft.store import Store
from rft.store.order import in_any_order
store, place = Store(Path(sys.argv[1])), Path(sys.argv[2])
def ask(name, other):
    def build(folder):
        (place / name).touch()
        end = time.monotonic() + 20
        while not (place / other).exists():
            assert time.monotonic() < end
            time.sleep(0.02)
    return store.get_or_compute("sft", version=1, config={"name": name}, inputs={}, build=build)
in_any_order(store, lambda: ask("one", "two"), lambda: ask("two", "one"))
assert store.waits
print(len(store.computed), len(list(store.entries())))
"""
        processes = [run_python(code, store.root, tmp_path) for _ in range(2)]
        assert [process.communicate(timeout=60)[0] for process in processes] == ["1 2\n", "1 2\n"]

    def test_what_is_made_from_an_entry_that_another_makes_comes_later_too(self, store: Store) -> None:
        order = list[str]()

        def ask(name: str, **inputs: str) -> Entry:
            def build(folder: Path) -> None:
                order.append(name)
                if name == "free":
                    other.release()

            return store.get_or_compute("sft", version=1, config={"name": name}, inputs=inputs, build=build)

        key = Store.key("sft", 1, {"name": "held"}, {})
        other = file_lock(store.root / "locks" / f"sft.{key[:16]}")
        (store.root / "locks").mkdir(parents=True)
        other.acquire()
        in_any_order(store, lambda: ask("made of it", held=ask("held").key), lambda: ask("free"))
        assert order == ["free", "held", "made of it"]
        assert store.waits

    def test_a_fault_while_nothing_is_waited_for_goes_on_to_the_caller(self, store: Store) -> None:
        with pytest.raises(AssertionError, match="computed although"):
            in_any_order(store, lambda: store.get_or_compute("sft", version=1, config={}, inputs={}, build=never))
        assert store.waits

    def test_sigkill_leaves_no_half_entry(self, store: Store, tmp_path: Path) -> None:
        process = self._killed(store, tmp_path)
        assert process.returncode == -signal.SIGKILL
        assert list(store.entries()) == []
        assert children(store.root / "sft") == []
        assert len(children(store.root / "tmp")) == 1
        output, _ = run_python(COMPUTE, store.root, tmp_path / "calls", 0).communicate(timeout=60)
        assert output.endswith(" True\n")
        assert len((tmp_path / "calls").read_text().split()) == 2
        assert children(store.root / "tmp") == []

    def test_gc_removes_what_a_killed_build_left(self, store: Store, tmp_path: Path) -> None:
        self._killed(store, tmp_path)
        (left,) = children(store.root / "tmp")
        (planned,) = store.gc(dry_run=True)
        assert (planned.kind, planned.path.name) == ("tmp", left)
        assert planned.bytes >= 1000
        assert children(store.root / "tmp") == [left]
        assert store.gc() == [planned]
        assert children(store.root / "tmp") == []

    def test_gc_leaves_a_running_build_alone(self, store: Store, tmp_path: Path) -> None:
        process = run_python(COMPUTE, store.root, tmp_path / "calls", 2)
        wait_for(tmp_path / "calls", process)
        assert store.gc(everything=True) == []
        assert process.communicate(timeout=60)[0].endswith(" True\n")

    @staticmethod
    def _killed(store: Store, tmp_path: Path) -> subprocess.Popen[str]:
        process = run_python(COMPUTE, store.root, tmp_path / "calls", 60)
        deadline = time.monotonic() + 30
        while not list(store.root.glob("tmp/*/started")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=30)
        return process


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "small"
    folder.mkdir()
    if not mount or not umount:
        pytest.skip("no mount command")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run([umount, "-l", folder], check=True)


BIG = 16 << 20


def fill_plainly(folder: Path) -> None:
    (folder / "big.bin").write_bytes(b"x" * BIG)


def fill_with_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(BIG, dtype=np.uint8)}, folder / "big.safetensors")


def fill_with_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = np.random.default_rng(0).integers(0, 2**62, BIG // 8)
    pq.write_table(pa.table({"x": noise}), folder / "big.parquet")


def fill_with_torch(folder: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(BIG, dtype=torch.uint8)}, folder / "big.ckpt")


class TestFullDisk:
    @pytest.mark.parametrize("fill", [fill_plainly, fill_with_safetensors, fill_with_parquet, fill_with_torch])
    def test_names_stage_path_and_mend_and_leaves_nothing(self, small_disk: Path, fill: Builder) -> None:
        store = Store(small_disk / "store")
        with pytest.raises(UserError) as caught:
            ask(store, fill)
        message = str(caught.value)
        assert "'sft'" in message
        assert str(store.root) in message
        assert "No space left on device" in message
        assert "RFT_STORE" in message
        assert "\n" not in message
        assert children(store.root / "sft") == children(store.root / "tmp") == []
        # torch's writer lives, and holds the removed file's blocks, as long as the traceback does.
        del caught
        gc.collect()
        assert ask(store, write()).metrics == {"accuracy": 0.5}

    def test_full_elsewhere_names_that_place(self, store: Store) -> None:
        def build(folder: Path) -> None:
            try:
                with Path("/dev/full").open("w") as stream:
                    stream.write("x" * 100_000)
            except OSError as error:
                raise RuntimeError("a library's own words") from error

        with pytest.raises(UserError, match="No space left on device"):
            ask(store, build)
        assert children(store.root / "tmp") == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_the_number_counts_in_any_language(self, store: Store, number: int) -> None:
        def build(folder: Path) -> None:
            raise OSError(number, "kein Platz")

        with pytest.raises(UserError, match="kein Platz"):
            ask(store, build)

    def test_a_file_over_the_limit(self, store: Store) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
            with pytest.raises(UserError, match=r"'sft'.*File too large"):
                ask(store, fill_plainly)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert children(store.root / "tmp") == []

    def test_other_errors_of_the_system_stay_what_they_are(self, store: Store) -> None:
        with pytest.raises(FileNotFoundError):
            ask(store, lambda folder: Path("/nowhere/at/all").unlink())


class TestReadOnly:
    def test_root_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = Store(tmp_path / "file" / "store")
        with pytest.raises(UserError, match=r"file/store cannot be written .*RFT_STORE"):
            ask(store, never)
        assert store.find("sft", A) is None

    def test_can_be_read_but_not_written(self) -> None:
        """In a process without root's powers, which would write anywhere."""
        code = """
import os, sys
from pathlib import Path
from rft.errors import UserError
from rft.store import Store
import filelock
store = Store(Path(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
(entry,) = store.entries()
found = store.find("sft", entry.key)
print("found" if found else "none")
def build(folder):
    raise AssertionError
try:
    request = {"version": 1, "config": {"lr": 0.1}, "inputs": {"questions": "a" * 64}}
    same = store.get_or_compute("sft", build=build, **request)
    print("same" if same == entry else "other")
except UserError as error:
    print(error)
try:
    store.get_or_compute("sft", version=2, config={}, inputs={}, build=build)
except UserError as error:
    print(error)
"""
        root = Path(tempfile.mkdtemp(prefix="rft-read-only-"))  # tmp_path lies in a folder closed to other users
        try:
            entry = ask(Store(root), write())
            for path in [root, *root.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            out, err = run_python(code, root).communicate(timeout=60)
            assert out.splitlines()[:2] == ["found", "same"], err
            assert re.search(r"cannot be written .*Permission denied.*RFT_STORE", out.splitlines()[2])
            file = entry.path / "data/x.txt"
            file.chmod(0o644)
            flip(file)
            out, err = run_python(code, root).communicate(timeout=60)
            assert out.splitlines()[0] == "none", err
            assert "Permission denied" in out.splitlines()[1]
            assert "data/x.txt" in err
            assert "Traceback" not in err
        finally:
            for path in [root, *root.rglob("*")]:
                path.chmod(0o755)
            shutil.rmtree(root)


class TestGc:
    @pytest.fixture
    def filled(self, store: Store) -> Store:
        ask(store, write("one"), "sft")
        ask(store, write("two"), "candidates")
        (store.root / "tmp" / "holiday.jpg").write_text("not the store's")
        (store.root / "documents" / "letters").mkdir(parents=True)
        return store

    def test_without_conditions_keeps_entries(self, filled: Store) -> None:
        assert filled.gc() == []
        assert len(list(filled.entries())) == 2

    def test_by_stage_and_age(self, filled: Store) -> None:
        assert filled.gc(older_than=timedelta(days=1)) == []
        assert filled.gc(older_than=timedelta(days=1), stages=["sft"]) == []
        assert [removed.path.parent.name for removed in filled.gc(stages=["sft"])] == ["sft"]
        assert [entry.stage for entry in filled.entries()] == ["candidates"]
        assert len(filled.gc(older_than=timedelta(0))) == 1
        assert list(filled.entries()) == []

    def test_everything_is_the_stores_own(self, filled: Store) -> None:
        assert len(filled.gc(everything=True)) == 2
        assert (filled.root / "tmp" / "holiday.jpg").exists()
        assert (filled.root / "documents" / "letters").exists()
        assert ask(filled, write()).metrics == {"accuracy": 0.5}

    def test_quarantine_goes(self, filled: Store, forget: Callable[[], None]) -> None:
        entry = next(entry for entry in filled.entries() if entry.stage == "sft")
        flip(entry.path / "data/x.txt")
        forget()
        assert filled.find("sft", entry.key) is None
        assert [removed.kind for removed in filled.gc()] == ["quarantine"]
        assert children(filled.root / "quarantine") == []


class TestCommands:
    @pytest.fixture
    def filled(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("RFT_STORE", str(store.root))
        made = ask(store, write("one"), "questions", inputs={})
        ask(store, write("x" * 2000), "sft", inputs={"questions": made.key})
        return store

    def test_ls(self, filled: Store) -> None:
        questions, sft = filled.entries()
        lines = CliRunner().invoke(app, ["ls"]).output.splitlines()
        assert lines[0].split() == ["stage", "key", "size", "age", "seconds", "inputs"]
        assert lines[2].split()[:4] == ["sft", sft.key[:12], "2.0", "kB"]
        assert f"questions={questions.key[:12]}" in lines[2]

    def test_ls_of_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RFT_STORE", str(tmp_path / "none"))
        for command in ("ls", "verify", "gc"):
            assert CliRunner().invoke(app, [command]).exit_code == 0
        assert not (tmp_path / "none").exists()

    def test_gc(self, filled: Store) -> None:
        (sft,) = (entry for entry in filled.entries() if entry.stage == "sft")
        result = CliRunner().invoke(app, ["gc", "--stage", "sft", "--dry-run"])
        assert f"sft/{sft.key[:16]}" in result.output
        assert sft.path.exists()
        assert CliRunner().invoke(app, ["gc", "--stage", "sft", "--older-than", "1"]).exit_code == 0
        assert sft.path.exists()
        assert CliRunner().invoke(app, ["gc", "--stage", "sft"]).exit_code == 0
        assert [entry.stage for entry in filled.entries()] == ["questions"]
        assert CliRunner().invoke(app, ["gc", "--all"]).exit_code == 0
        assert list(filled.entries()) == []

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [(["--stage", "sfft"], "did you mean 'sft'"), (["--all", "--stage", "sft"], "--all goes without")],
    )
    def test_gc_refuses(self, filled: Store, arguments: list[str], words: str) -> None:
        error = CliRunner().invoke(app, ["gc", *arguments]).exception
        assert isinstance(error, UserError)
        assert words in str(error)
        assert len(list(filled.entries())) == 2


def test_importing_the_commands_is_light() -> None:
    heavy = (
        "torch",
        "transformers",
        "pandas",
        "numpy",
        "pyarrow",
        "sklearn",
        "hydra",
        "filelock",
        "rich.table",
    )
    code = f"import sys, rft.cli.store, rft.cli.assets; print([m for m in {heavy!r} if m in sys.modules])"
    assert run_python(code).communicate(timeout=60)[0] == "[]\n"
