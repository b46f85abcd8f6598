"""The benchmarks on a tiny model, without TRL: every case of ours and of the floor takes its steps.

What each side does is checked in forks of this process, which has imported everything; the command, with real workers,
on one case.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import report
from experiments.benchmarks.cases import ADAPTER_ALPHA, ADAPTER_RANK, CASES, ROOT, Job, Prepared, Shape, adapted_layers
from experiments.benchmarks.costs import kind_of
from rft.config.compose import compose

SHAPE = Shape(sequences=8, prompt=6, response=8)
STEPS = 2


def forked(work: Callable[[], Any], folder: Path, commands: str) -> list[dict[str, Any]]:
    """The JSON lines that a worker writes when it is told some commands, in a fork."""
    told, heard = folder / "told", folder / "heard"
    heard.write_text(commands)
    child = os.fork()
    if child == 0:  # no way out of here but this one: the rest of the tests is the parent's
        try:
            os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 1)
            sys.stdin = heard.open()
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return [json.loads(line) for line in told.read_text().splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    ours = importlib.import_module("experiments.benchmarks.sides.ours")
    job = Job("decode", "tiny", False, SHAPE, 1, STEPS, str(folder))
    (made,) = forked(lambda: ours.prepare(job), folder, "")
    return Prepared(made["folder"], made["ending_token"], tuple(made["lengths"]))


ALIKE = {"decode_ending", "dpo_kept", "ppo_head", "rloo"}
"""Cases that differ little from another."""


@pytest.mark.assets
@pytest.mark.parametrize("lora", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "case", [pytest.param(case.name, marks=[pytest.mark.slow] * (case.name in ALIKE)) for case in CASES]
)
@pytest.mark.parametrize(("module", "side"), [("ours", "Ours"), ("floor", "Floor")])
def test_a_side_takes_its_steps(
    module: str, side: str, case: str, lora: bool, prepared: Prepared, tmp_path: Path
) -> None:
    made = getattr(importlib.import_module(f"experiments.benchmarks.sides.{module}"), side)
    job = Job(case, "tiny", lora, SHAPE, 1, STEPS, str(tmp_path), prepared)
    ready, *steps = forked(lambda: made(job).run(), tmp_path, "step\n" * (STEPS - 1) + "profile\n")
    assert ready["ready"]
    assert len(steps) == STEPS
    assert all(step["seconds"] > 0 and step["peak_bytes"] > 2**20 for step in steps)
    tokens = [step["tokens"] for step in steps]
    if case == "decode_ending":
        assert all(SHAPE.sequences <= n <= SHAPE.sequences * SHAPE.response for n in tokens)
    else:
        assert set(tokens) == {SHAPE.sequences * SHAPE.response if case == "decode" else SHAPE.tokens}
    costs = steps[-1]["costs"]
    assert len(costs) == 5
    assert "matrix products" in [cost["cost"] for cost in costs]
    assert [c["seconds"] for c in costs] == sorted((c["seconds"] for c in costs), reverse=True)


@pytest.mark.slow
@pytest.mark.assets
def test_the_command_writes_table_json_and_plot(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.run", "--model", "tiny", "--only", "decode", "--full"]
    command += ["--repeats", "1", "--threads", "1", "--no-trl", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "times.json").read_text())
    assert [(row["case"], row["weights"]) for row in found["rows"]] == [("decode", "full"), ("decode_ending", "full")]
    for row in found["rows"]:
        assert {name: len(side["seconds"]) for name, side in row["sides"].items()} == {"ours": 1, "floor": 1}
    table = (tmp_path / "times.md").read_text()
    assert f"torch {found['machine']['versions']['torch']}" in table
    assert "| decode_ending | full |" in table
    assert (tmp_path / "times-tiny.png").read_bytes().startswith(b"\x89PNG")
    first, second = found["rows"]
    (tmp_path / "times.json").write_text(json.dumps(found | {"rows": [first]}))  # as if it had been broken off
    subprocess.run([*command, "--keep"], cwd=ROOT, capture_output=True, check=True, timeout=280)
    again = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert again[0] == first
    assert again[1]["case"] == second["case"]
    assert again[1]["sides"]["ours"]["seconds"] != second["sides"]["ours"]["seconds"]


def test_an_unknown_case_is_refused_by_name() -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.run", "--only", "dop"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("--only dop: choose from decode, decode_ending, dpo")


def side(seconds: list[float], peak_mb: int, tokens: int = 3072) -> dict[str, Any]:
    return {"seconds": seconds, "tokens": [tokens] * len(seconds), "parts": [], "peak_bytes": peak_mb * 2**20}


ROW = {
    "model": "smollm2",
    "case": "dpo",
    "weights": "full",
    "sides": {"ours": side([8.0, 9.0, 99.0], 5000), "trl": side([22.5, 1.0, 90.0], 10000), "floor": side([7.2], 1)},
}


def test_ratios_are_of_medians_and_judged_by_what_is_asked() -> None:
    assert report.judged_ratios(ROW) == ["2.50 (≥ 2.5: met)", "1.25 (≤ 1.2: missed)", "0.50 (≤ 0.6: met)"]
    assert report.judged_ratios(ROW | {"model": "tiny"}) == ["2.50", "1.25", "0.50"]
    without = ROW | {"sides": {"ours": ROW["sides"]["ours"], "trl": side([], 0)}}
    assert report.judged_ratios(without) == ["–", "–", "–"]


def test_ratios_of_decoding_are_a_token() -> None:
    sides = {"ours": side([1.0], 1, tokens=900), "trl": side([2.0], 1, tokens=600)}
    assert report.judged_ratios(ROW | {"case": "decode_ending", "sides": sides})[0] == "3.00 (≥ 3: met)"


def test_operators_are_of_a_kind() -> None:
    found = [kind_of(f"aten::{name}") for name in ("mm", "copy_", "mul_", "_log_softmax", "logsumexp", "zero_")]
    softmax = "softmax and logarithms"
    assert found == [
        "matrix products",
        "copies and casts",
        "element by element",
        softmax,
        softmax,
        "filling with zeros",
    ]
    assert kind_of("mkldnn::_linear_pointwise") == "matrix products"
    assert kind_of("Optimizer.step#AdamW.step") == "Optimizer.step#AdamW.step"


@pytest.mark.parametrize("model", ["smollm2", "tiny"])
def test_other_sides_have_the_adapters_of_ours(model: str) -> None:
    ours = compose([f"model={model}"]).model.lora
    assert (ours.rank, ours.alpha, ours.targets) == (ADAPTER_RANK, ADAPTER_ALPHA, "all-linear")
    assert adapted_layers(30, model, lora=True) == (30 - ours.top_layers if ours.top_layers else 0)
    assert adapted_layers(30, model, lora=False) == 0


def test_a_shape_grows_in_one_direction() -> None:
    assert Shape().scaled(batch=4) == replace(Shape(), sequences=128)
    assert Shape().scaled(tokens=4).tokens == 4 * Shape().tokens
