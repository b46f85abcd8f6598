"""A short real trial of every registered algorithm, from the stages that all of them share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rft.testing.suite import algorithm_names
from tests.conformance.derived import derived
from tests.integration.conftest import Sweep, without_policies
from tests.integration.harness import ON_POLICY, TINY, Result, Warm, trial_folder

# The first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

SETTINGS = {"none": (), "on_policy": ON_POLICY}
LABELLED = ("algorithm.pairs_per_step=4", "algorithm.epochs=2")


def kind(name: str) -> str:
    """What the algorithm learns from."""
    from rft.config import compose
    from rft.config.build import target_class

    found: str = target_class(compose([f"algorithm={name}"]).algorithm).data_kind
    return found


@pytest.fixture(scope="module")
def store(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared stages in a store of these trials' own: in the sweep's, other tests would find their policies done."""
    return without_policies(sweep.store, tmp_path_factory.mktemp("trials") / "store")


def trial(name: str, store: Path, warm: Warm, cwd: Path, *more: str) -> Result:
    """A finished trial of it."""
    settings = SETTINGS.get(kind(name), LABELLED)
    outcome = warm(["run", f"algorithm={name}", *settings, *more, "arm=short", "tracker=none", *TINY], cwd, store)
    assert outcome.code == 0, outcome.stderr
    return Result(trial_folder(cwd, "short"), store)


def answers(of: Result) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows of the evaluation by their question and their sampling numbers."""
    import pyarrow.parquet as pq

    rows = pq.read_table(of.entry("evaluation") / "evaluation.parquet").to_pylist()
    return {(row["split"], row["prompt_id"], row["sample"]): row for row in rows}


# One that another is under other feedback trains as that one does.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in derived())) for name in sorted(algorithm_names())],
)
def test_a_short_trial_trains_what_it_says_and_is_evaluated(
    name: str, sweep: Sweep, store: Path, warm: Warm, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    found = trial(name, store, warm, tmp_path)
    assert (found.record["status"], found.record["error"]) == ("done", None)
    manifest = json.loads((found.entry("evaluation") / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]
    assert all(math.isfinite(value) for value in manifest["metrics"].values())
    rows = answers(found)
    assert set(rows) == set(answers(sweep.trials["sft"]))
    assert all(math.isfinite(row[column]) for row in rows.values() for column in ("gold", "proxy", "kl"))

    start, end = (load_file(of.entry("policy") / "policy.safetensors") for of in (sweep.trials["sft"], found))
    assert set(start) == set(end)
    trains = kind(name) != "none"
    assert all(bool(weight.isfinite().all()) for weight in end.values())
    assert any(not start[key].equal(end[key]) for key in start) is trains
    history = found.history()
    assert bool(history) is trains
    assert all(math.isfinite(value) for row in history for value in row.values())


@pytest.mark.parametrize("n", [1, 4])
def test_the_best_of_n_is_no_worse_than_the_first_of_them_and_pays_its_kl(
    n: int, sweep: Sweep, store: Path, warm: Warm, tmp_path: Path
) -> None:
    alone = answers(sweep.trials["sft"])
    best = answers(trial("best_of_n", store, warm, tmp_path, f"algorithm.n={n}"))
    assert set(best) == set(alone)
    for key, row in best.items():
        assert row["kl"] == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-12)
        assert row["proxy"] >= alone[key]["proxy"]
        assert row["prompt"] == alone[key]["prompt"]
    differ = [key for key, row in best.items() if row["response"] != alone[key]["response"]]
    assert bool(differ) is (n > 1)
    assert all(best[key]["proxy"] > alone[key]["proxy"] for key in differ)


def test_the_reference_reads_the_fixed_answers_once_for_all(store: Path, warm: Warm, tmp_path: Path) -> None:
    """For every seed and algorithm that learns from them; what it says is what the loaded model says by itself."""
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    commands = {"kto": (), "dpo": (), "dpo again": ("algorithm.beta=0.5", "algorithm.epochs=1"), "orpo": ()}
    found = {}
    for name, more in commands.items():
        (tmp_path / name).mkdir()
        found[name] = trial(name.split()[0], store, warm, tmp_path / name, *more)
    stages = {name: one.record["stages"] for name, one in found.items()}
    assert "reference" not in stages["orpo"]
    assert len({stages[name]["reference"]["key"] for name in ("kto", "dpo", "dpo again")}) == 1
    assert [name for name in stages if "reference_mismatched" in stages[name]] == ["kto"]
    assert not {"reference", "reference_mismatched"} & found["dpo again"].computed

    model = AutoModelForCausalLM.from_pretrained(found["dpo"].entry("sft"), dtype=torch.float32)
    rows = pq.read_table(found["dpo"].entry("candidates") / "candidates.parquet").to_pylist()
    own = load_file(found["kto"].entry("reference") / "reference.safetensors")["logprobs"]
    other = load_file(found["kto"].entry("reference_mismatched") / "reference.safetensors")["logprobs"]
    assert own.shape == other.shape == (len(rows),)

    def logprob(prompt: list[int], response: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
        return float(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum())

    per_prompt = max(row["sample"] for row in rows) + 1
    further = len(rows) // per_prompt // 2 * per_prompt
    for i in (0, 1, len(rows) // 2, len(rows) - 1):
        assert float(own[i]) == pytest.approx(logprob(rows[i]["prompt_ids"], rows[i]["response_ids"]), abs=1e-3)
        mismatched = rows[(i + further) % len(rows)]["response_ids"]
        assert float(other[i]) == pytest.approx(logprob(rows[i]["prompt_ids"], mismatched), abs=1e-3)

    charged = json.loads((found["dpo"].entry("reference") / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert charged["usage"]["flops"] > 0
