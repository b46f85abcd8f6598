"""A package made by ``rft new`` and changed into ReMax, installed by pip, is compared like the algorithms of rft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.integration.conftest import Sweep
from tests.integration.harness import ON_POLICY, REPOSITORY, TINY, Outcome, Result
from tests.integration.plugin_environment import Environment

# pip fetches the build backend; the first of the group to run waits for the sweep that all share.
pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

PACKAGE = REPOSITORY / "tests" / "plugin_package"
SMALL = " ".join((*TINY, *ON_POLICY, "tracker=none"))


def install(folder: Path, *, editable: bool) -> Environment:
    """An environment with the package in it."""
    shutil.copytree(PACKAGE, folder / "rft-remax", ignore=shutil.ignore_patterns("__pycache__"))
    env = Environment(folder / "env")
    flag = "-e " if editable else ""
    outcome = env.shell(f"pip install -q --no-deps {flag}{folder / 'rft-remax'}", folder, folder / "store")
    assert outcome.code == 0, outcome.stderr
    return env


Installed = Callable[[str], Environment]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The environment of a kind of installation, made when it is first asked for."""
    return cache(lambda kind: install(tmp_path_factory.mktemp(kind), editable=kind == "editable"))


def ok(outcome: Outcome) -> str:
    """The output of a command that must succeed and have nothing to warn of."""
    assert outcome.code == 0, outcome.stderr
    assert "warning" not in outcome.stderr
    return outcome.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "editable"])
def test_it_is_an_option_like_ours(installed: Installed, kind: str, tmp_path: Path) -> None:
    env = installed(kind)
    row = ok(env.shell("rft plugins", tmp_path, tmp_path)).splitlines()[1]
    assert row.split() == ["remax", "rft-remax", "0.1.0", kind, "algorithm=remax", "ok"]
    assert "_target_: rft_remax.remax.Remax" in ok(env.shell("rft run algorithm=remax --cfg job", tmp_path, tmp_path))
    helped = ok(env.shell("rft run --help", tmp_path, tmp_path))
    assert any("remax" in line for line in helped.splitlines() if line.startswith("algorithm: "))
    query = "COMP_LINE='rft run algorithm=re' rft -sc query=bash"
    assert "algorithm=remax" in ok(env.shell(query, tmp_path, tmp_path)).split()
    refused = env.shell("rft run algorithm=remax algorithm.kl_cof=1", tmp_path, tmp_path).error
    assert "algorithm.kl_cof: no such key in algorithm; did you mean 'kl_coef'?" in refused


@pytest.mark.slow
def test_it_runs_in_a_sweep_beside_ppo_and_is_compared(
    sweep: Sweep, shared: Path, installed: Installed, tmp_path: Path
) -> None:
    command = f"rft run -m algorithm=ppo,remax seed=0 study=mine arm='${{algorithm.name}}' {SMALL}"
    ok(installed("editable").shell(command, tmp_path, shared))
    found = [Result(path.parent, shared) for path in tmp_path.rglob("trial.json")]
    trials = {str(trial.record["algorithm"]): trial for trial in found}
    assert set(trials) == {"ppo", "remax"}
    for stage in ("sft", "reward_model", "questions"):
        assert trials["remax"].digests[stage] == trials["ppo"].digests[stage] == sweep.trials["ppo"].digests[stage]
    assert trials["remax"].digests["policy"] != trials["ppo"].digests["policy"]
    table = ok(installed("editable").shell("rft compare mine", tmp_path, shared))
    assert any(line.split()[0] == "remax" for line in table.splitlines() if line.strip())
    arms = json.dumps(json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text(encoding="utf-8")))
    assert "remax" in arms
    # The other install has the same code: there is nothing left to compute.
    again = f"rft run algorithm=remax seed=0 study=mine arm=remax {SMALL}"
    assert "nothing to compute" in ok(installed("normal").shell(again, tmp_path, shared))
