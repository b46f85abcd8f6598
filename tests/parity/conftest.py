"""Asks TRL, in its own environments, once a session."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.parity.exchange import Case, Tensors, read_results, write_cases
from tests.parity.suite import CASES_112, CASES_116

ROOT = Path(__file__).resolve().parents[2]


def ask(version: str, cases: dict[str, Case], folder: Path) -> dict[str, Tensors]:
    """Run the script of that version on the cases."""
    python = ROOT / f".venv-parity-{version}" / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python.parents[1].name} is missing; run `make test-parity`", pytrace=False)
    write_cases(folder, cases)
    command = [str(python), "-m", f"tests.parity.trl_{version}", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    return read_results(folder)


@pytest.fixture(scope="session")
def trl_116(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensors]:
    """What TRL 1.16 computes for `CASES_116`."""
    return ask("116", CASES_116, tmp_path_factory.mktemp("trl_116"))


@pytest.fixture(scope="session")
def trl_112(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensors]:
    """What TRL 1.12 computes for `CASES_112`."""
    return ask("112", CASES_112, tmp_path_factory.mktemp("trl_112"))
