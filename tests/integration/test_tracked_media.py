"""Each tracker keeps tables, histograms, pictures and artifacts as far as it can, read back by its own client."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from rft.callbacks.trackers.upload import is_uploaded, kept_runs
from rft.study.uploads import uploads
from tests.integration.harness import files_under, tracked, wait_until
from tests.integration.test_trackers import FINAL, ROWS, installed, online
from tests.tracked_run import told
from tests.wandb_server import Server

pytestmark = pytest.mark.timeout(900)
COLUMNS = ["prompt", "response", "gold", "proxy", "truncated"]
CELLS = [
    ["It was | a *film*", "two\nlines <b>and</b> `code`", 0.1 + 0.2, None, True],
    ["Ω – “quoted”", "", 1e-17, -3.25, False],
]
HISTOGRAM = ([1, 0, 3], [-1.0, -0.5, 0.25, 2.0])
SAID = "ppo is better than sft: +0.27 (<b>3</b> seeds)"
KEY = "0123456789abcdef" * 4


def png(width: int, height: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def things(tmp_path: Path) -> dict[str, Any]:
    """What a run is told besides rows; the weights are too large to be copied."""
    place = tmp_path / "store"
    place.mkdir()
    (place / "small.json").write_text("{}", encoding="utf-8")
    (place / "weights.safetensors").write_bytes(b"w" * 20_000)
    (place / "curve.png").write_bytes(png(7, 5))
    (place / "report.html").write_text("<p>better</p>", encoding="utf-8")
    files = {"small.json": str(place / "small.json"), "weights.safetensors": str(place / "weights.safetensors")}
    artifact = {"kind": "model", "key": KEY, "files": files}
    return {
        "uses": [{**artifact, "name": "sft"}],
        "makes": [{**artifact, "name": "policy-ppo-s0", "kind": "policy", "key": KEY[::-1]}],
        "histograms": {"distribution/ratio": HISTOGRAM},
        "tables": {"samples_test": [COLUMNS, CELLS]},
        "figures": {"frontier": str(place / "curve.png")},
        "pages": {"report": str(place / "report.html")},
        "texts": {"verdict": SAID},
    }


def setting(name: str, *settings: str) -> list[str]:
    return [f"tracker={name}", "tracker.artifact_mb=0.01", *settings]


def md5(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


def artifacts(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    return {one["name"]: one for one in found if one["type"] != "run_table"}


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_wandb_has_all_of_it(things: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    assert told(folder, setting("offline"), ROWS, metrics=FINAL, **things).stderr == ""
    (records,) = tracked(folder)
    rows = history(records)
    assert [row["_step"] for row in rows] == [row["step"] for row in ROWS], "a histogram is in the row of its step"
    for row in rows:
        assert row["distribution/ratio._type"] == "histogram"
        assert (row["distribution/ratio.values"], row["distribution/ratio.bins"]) == HISTOGRAM
    last, files = rows[-1], next(folder.glob("wandb/offline-run-*")) / "files"
    table = json.loads((files / last["samples_test.path"]).read_text(encoding="utf-8"))
    assert (table["columns"], table["data"]) == (COLUMNS, CELLS)
    assert (files / last["frontier.path"]).read_bytes() == png(7, 5)
    assert (files / last["report.path"]).read_text(encoding="utf-8") == "<p>better</p>"
    assert last["eval/test/gold"] == FINAL["eval/test/gold"]
    summed = {
        name: value for one in records if one["type"] == "summary" for name, value in one["summary"]["update"].items()
    }
    assert summed["verdict"] == SAID
    kept = artifacts(records)
    assert {name: one.get("use_after_commit", False) for name, one in kept.items()} == {
        "sft": True,
        "policy-ppo-s0": False,
    }
    assert kept["sft"]["aliases"] == [KEY[:16]]
    assert kept["policy-ppo-s0"]["aliases"] == ["latest", KEY[::-1][:16]]
    for one in kept.values():
        entries = {entry["path"]: entry for entry in one["manifest"]["contents"]}
        source = Path(things["uses"][0]["files"]["small.json"]).parent
        assert {name: entry["digest"] for name, entry in entries.items()} == {
            name: md5(source / name) for name in ("small.json", "weights.safetensors")
        }
        copied = Path(entries["small.json"]["local_path"])
        assert copied.is_relative_to(folder.absolute()), "copying the folder copies all"
        assert copied.read_text(encoding="utf-8") == "{}"
        assert "local_path" not in entries["weights.safetensors"]
        assert Path(unquote(urlsplit(entries["weights.safetensors"]["ref"]).path)) == source / "weights.safetensors"


@pytest.mark.slow
def test_equal_files_make_equal_versions_whether_copied_or_by_reference(things: dict[str, Any], tmp_path: Path) -> None:
    digests = set()
    for number, settings in enumerate((setting("offline"), ["tracker=offline"])):
        folder = tmp_path / f"trial{number}"
        told(folder, settings, ROWS[:1], uses=things["uses"])
        (records,) = tracked(folder)
        digests.add(artifacts(records)["sft"]["digest"])
    assert len(digests) == 1, "else the runs of a study would not join in one graph"


def test_what_is_switched_off_is_not_kept(things: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    told(folder, setting("offline", "tracker.artifacts=false", "tracker.histograms=0"), ROWS, **things)
    (records,) = tracked(folder)
    assert not artifacts(records)
    assert not [key for row in history(records) for key in row if key.startswith("distribution/")]
    assert "samples_test.path" in history(records)[-1]


@pytest.mark.slow
def test_tensorboard_has_histograms_pictures_and_text(things: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "trial"
    for resumed in (False, True):
        told(folder, setting("tensorboard"), ROWS, metrics=FINAL, resumed=resumed, **things)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    found = events.Histograms("distribution/ratio")
    assert [event.step for event in found] == [row["step"] for row in ROWS], "each once, for all that it was resumed"
    assert found[0].histogram_value.bucket == HISTOGRAM[0]
    assert found[0].histogram_value.bucket_limit == HISTOGRAM[1][1:]
    (picture,) = events.Images("frontier")
    assert (picture.encoded_image_string, picture.width, picture.height) == (png(7, 5), 7, 5)

    def text(name: str) -> str:
        event = events.Tensors(f"{name}/text_summary")[-1]  # this reader forgets no former text
        return str(event.tensor_proto.string_val[0].decode())

    head, _, *rows = [line.strip("| ").split(" | ") for line in text("samples_test").splitlines()]
    assert head == COLUMNS
    assert [[html.unescape(cell) for cell in row] for row in rows] == [
        [cell if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in CELLS
    ]
    assert text("verdict") == SAID
    for name, way in (("sft", "used"), ("policy-ppo-s0", "made")):
        described = json.loads(text(f"artifacts/{way}/{name}").removeprefix("```json").removesuffix("```"))
        assert described["key"] in (KEY, KEY[::-1])
        assert described["files"]["small.json"].startswith("file:///")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["", "hang", "500"])
def test_online_all_of_it_is_on_this_machine_whatever_the_server_does(
    fault: str, server: Server, things: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    rows = [{**ROWS[0], "step": float(step)} for step in range(100)]
    fails = threading.Thread(
        target=lambda: (wait_until(lambda: "stream" in str(server.asked()), 200), server.fail(fault))
    )
    fails.start()
    done = told(folder, setting("wandb"), rows, environment=online(server), metrics=FINAL, pause=0.1, **things)
    fails.join()
    waited = json.loads(done.stdout)
    assert waited["rows"] < 100 * 0.1 + 5 + 20, "the pauses, the patience, and a machine with much to do"
    if fault:
        (line,) = done.stderr.splitlines()
        assert "the run is whole in" in line
        assert waited["end"] < 60
    (records,) = tracked(folder)
    assert [row["_step"] for row in history(records)] == list(range(100))
    last = history(records)[-1]
    assert last["samples_test.nrows"] == len(CELLS)
    assert last["eval/test/gold"] == FINAL["eval/test/gold"]
    kept = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert [one["name"] for one in kept] == ["sft", "run-0123abcd-samples_test", "policy-ppo-s0"]
    if fault:
        assert_files_are_here(records, folder)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["upload", "file_stream"])
def test_a_run_that_the_server_took_a_part_of_is_not_taken_for_uploaded(
    part: str, server: Server, things: dict[str, Any], tmp_path: Path
) -> None:
    server.fail(f"500 {part}")
    folder = tmp_path / "trial"
    chosen = setting("wandb", "tracker.upload_seconds=3")
    done = told(folder, chosen, ROWS, environment=online(server), metrics=FINAL, **things)
    (line,) = done.stderr.splitlines()
    assert "`rft sync` uploads it" in line
    assert json.loads(done.stdout)["end"] < 60
    (run,) = kept_runs(folder / "wandb")
    assert not is_uploaded(run)
    (records,) = tracked(folder)
    assert_files_are_here(records, folder)


def assert_files_are_here(records: list[dict[str, Any]], folder: Path) -> None:
    """What artifacts are made of and the server may lack is beside the run."""
    entries = [e for r in records if r["type"] == "artifact" for e in r["artifact"]["manifest"]["contents"]]
    copied = [(Path(one["local_path"]), one["digest"]) for one in entries if "local_path" in one]
    assert len(copied) > 1
    assert [md5(path) for path, _ in copied] == [digest for _, digest in copied]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "drop", "500"])
def test_a_server_that_is_silent_for_long_leaves_the_run_offline_while_it_goes_on(
    fault: str, server: Server, things: dict[str, Any], tmp_path: Path
) -> None:
    # It has an artifact by then; the run is begun again from the files that it was sent.
    folder = tmp_path / "trial"
    rows = [{**ROWS[0], "step": float(step)} for step in range(150)]
    fails = threading.Thread(target=lambda: (wait_until(lambda: "used" in str(server.told()), 200), server.fail(fault)))
    fails.start()
    chosen = setting("wandb", "tracker.silence_seconds=3")
    done = told(folder, chosen, rows, environment=online(server), metrics=FINAL, pause=0.2, **things)
    fails.join()
    (line,) = done.stderr.splitlines()
    assert "the run goes on offline" in line
    waited = json.loads(done.stdout)
    assert waited["rows"] < 150 * 0.2 + 5
    assert waited["end"] < 20
    online_part, offline_part = tracked(folder)
    assert history(online_part)
    assert [row["_step"] for row in history(offline_part)] == list(range(150))
    last = history(offline_part)[-1]
    assert (last["samples_test.nrows"], last["eval/test/gold"]) == (len(CELLS), FINAL["eval/test/gold"])
    assert artifacts(offline_part).keys() == {"sft", "policy-ppo-s0"}
    assert_files_are_here(offline_part, folder)
    server.fail("")
    (run,) = uploads([tmp_path])
    assert run.waiting[-1].name.startswith("offline-run-")


@pytest.mark.slow
def test_an_online_run_that_goes_on_has_its_tables_though_the_server_has_its_rows(
    server: Server, things: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    told(folder, setting("wandb"), ROWS, environment=online(server))
    server.resumes()
    done = told(folder, setting("wandb"), ROWS, environment=online(server), metrics=FINAL, resumed=True, **things)
    assert done.stderr == ""
    *rows, last = server.rows()
    assert [row["_step"] for row in rows] == [row["step"] for row in ROWS], "each row once"
    assert last["samples_test"]["nrows"] == len(CELLS)
    assert {"frontier", "report"} <= last.keys()
    assert (last["trainer/global_step"], last["eval/test/gold"]) == (ROWS[-1]["step"], FINAL["eval/test/gold"])


@pytest.mark.slow
@installed("mlflow")
def test_mlflow_has_tables_inputs_and_files(things: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    for resumed in (False, True):
        assert told(folder, setting("mlflow"), ROWS, metrics=FINAL, resumed=resumed, **things).stderr == ""
    import mlflow
    from mlflow.tracking import MlflowClient

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["verdict"] == SAID
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("sft", KEY[:36])
    mlflow.set_experiment("study")
    table = mlflow.load_table("samples_test.json")
    assert list(table.columns) == COLUMNS
    assert table["gold"].tolist() == [row[2] for row in CELLS], "once, though it was told twice"
    assert [list(row) for row in table[["prompt", "response", "truncated"]].to_numpy()] == [
        [row[0], row[1], row[4]] for row in CELLS
    ]
    place = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert json.loads((place / "histograms.json").read_text())["distribution/ratio"][0]["counts"] == HISTOGRAM[0]
    assert len(json.loads((place / "histograms.json").read_text())["distribution/ratio"]) == len(ROWS)
    assert (place / "frontier" / "curve.png").read_bytes() == png(7, 5)
    assert (place / "report" / "report.html").exists()
    assert files_under(place / "policy-ppo-s0") == {"small.json", "artifact.json"}
    about = json.loads((place / "policy-ppo-s0" / "artifact.json").read_text())
    assert about["references"].keys() == {"weights.safetensors"}
    assert about["key"] == KEY[::-1]


@installed("trackio")
def test_trackio_has_tables_histograms_and_lineage(things: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    done = told(folder, setting("trackio"), ROWS, metrics=FINAL, **things)
    assert done.stderr == ""
    code = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "(run,) = trackio.Api().runs('study')\n"
        "print(json.dumps([S.get_logs('study', run.name, run_id=run.id),"
        " S.get_run_artifacts('study', run.name, run_id=run.id)]))"
    )
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    read = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    rows, linked = json.loads(read.stdout.splitlines()[-1])
    found = {name: value for row in rows for name, value in row.items() if isinstance(value, dict)}
    assert (found["distribution/ratio"]["values"], found["distribution/ratio"]["bins"]) == HISTOGRAM
    assert found["samples_test"]["_value"] == [dict(zip(COLUMNS, row, strict=True)) for row in CELLS]
    assert {"frontier", "report"} <= found.keys()
    assert found["verdict"] == {"_type": "trackio.markdown", "_value": SAID}
    assert [one["name"] for one in linked["input"]] == ["sft"]
    assert "policy-ppo-s0" in [one["name"] for one in linked["output"]]
