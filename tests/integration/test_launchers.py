"""The same sweep on Ray and through submitit: trials of one and of two processes, each once, with the same results."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from rft.study.ledger import Ledger
from rft.study.slots import Demand
from tests.integration.harness import OF, TINY, Result, Warm, rft, study

pytestmark = [
    pytest.mark.assets,
    pytest.mark.slow,
    pytest.mark.xdist_group(__name__),
    pytest.mark.timeout(1800),
]
ELSEWHERE = {
    "ray": ("hydra/launcher=ray", "hydra.launcher.cluster_gpus=4", "hydra.launcher.cluster_cores=8"),
    "submitit": ("hydra/launcher=submitit", "hydra.launcher.cluster=local"),
}


def require_extra(kind: str) -> None:
    if find_spec(kind) is None:
        pytest.skip(f"the extra of {kind} is not installed")


def trials(folder: Path, store: Path, study: str) -> dict[str, Result]:
    found = [Result(file.parent, store) for file in (folder / "runs" / study).rglob("trial.json")]
    return {str(one.record["arm"]): one for one in found}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_sweep_elsewhere_computes_what_it_computes_here(kind: str, shared: Path, warm: Warm, tmp_path: Path) -> None:
    require_extra(kind)
    own = list(ELSEWHERE[kind])
    if kind == "ray" and "RAY_ADDRESS" in os.environ:
        own = ["hydra/launcher=ray", f"hydra.launcher.address={os.environ['RAY_ADDRESS']}"]
    common = [*OF["dpo"], *TINY, "tracker=none"]
    assert warm(["run", *common, "study=here", "arm=cpu"], tmp_path, shared).code == 0
    sweep = ["run", "-m", *own, *common, "strategy=cpu,ddp", "study=there", "arm=${strategy.distribution}"]
    gpus = "hydra.launcher.gpus=0.5" if kind == "ray" else "hydra.launcher.gpus=0"
    outcome = rft([*sweep, gpus], tmp_path, shared, RFT_ALLOWED_PACKAGES=None)
    assert outcome.code == 0, outcome.stderr
    found, here = trials(tmp_path, shared, "there"), trials(tmp_path, shared, "here")["cpu"]
    assert {arm: one.record["status"] for arm, one in found.items()} == {"single": "done", "ddp": "done"}
    assert found["single"].digests["policy"] == here.digests["policy"]
    assert found["ddp"].record["stages"]["policy"]["computed"]
    assert len(found["ddp"].history()) == len(here.history())


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_refused_trial_ends_alone_and_is_told(kind: str, shared: Path, tmp_path: Path) -> None:
    require_extra(kind)
    own = list(ELSEWHERE[kind])
    if kind == "ray" and "RAY_ADDRESS" in os.environ:
        own = ["hydra/launcher=ray", f"hydra.launcher.address={os.environ['RAY_ADDRESS']}"]
    sweep = ["run", "-m", *own, *OF["dpo"], *TINY, "tracker=none", "study=one", "algorithm.lr=1e-4,1e30"]
    outcome = rft(sweep, tmp_path, shared)
    assert outcome.code == 2
    assert "1 trials of the sweep" in outcome.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "runs" / "one").rglob("trial.json")]
    assert sorted(one["status"] for one in records) == ["done", "failed"]


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_study_runs_elsewhere_and_goes_on_there(kind: str, shared: Path, tmp_path: Path) -> None:
    """Compared, with one arm that fails; what each takes is kept, and so is where, until something else is said."""
    require_extra(kind)
    own = list(ELSEWHERE[kind][1:])
    if kind == "ray" and "RAY_ADDRESS" in os.environ:
        own = [f"hydra.launcher.address={os.environ['RAY_ADDRESS']}"]
    gpus = 0.5 if kind == "ray" else 0.0
    arms = {"good": OF["dpo"], "bad": [*OF["dpo"], "algorithm.lr=1e30"]}
    where = study(tmp_path / "there", arms=arms, overrides=[*TINY, "tracker=none", "strategy=cpu"])
    outcome = rft(["compare", str(where), "--launcher", kind, f"hydra.launcher.gpus={gpus}", *own], tmp_path, shared)
    assert outcome.code == 2, outcome.stderr
    assert "1 trials did not end well: bad seed 0" in outcome.stderr
    ledger = Ledger(tmp_path / "runs" / "there")
    rows = {row.arm: row for row in ledger.rows() if row.is_trial}
    assert {arm: (row.state.value, row.attempts) for arm, row in rows.items()} == {
        "good": ("done", 1),
        "bad": ("failed", 1),
    }
    assert all(row.demand == Demand(1, 0, gpus) for row in rows.values())
    assert ledger.noted("where") == [f"hydra/launcher={kind}", f"hydra.launcher.gpus={gpus}", *own]

    again = rft(["retry", "there", "bad"], tmp_path, shared)
    assert again.code == 2, again.stderr
    left = list((tmp_path / "runs" / "there" / ".submitit").glob("*/*_result.pkl"))
    every = ledger.rows()  # two stages that the trials share, two trials, and one of these once more
    assert sorted(row.attempts for row in every) == [1, 1, 1, 2]
    assert len(left) == (0 if kind == "ray" else 5)
