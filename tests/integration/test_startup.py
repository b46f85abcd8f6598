"""Whatever needs nothing heavy is quick: help, and the refusal of a configuration."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.harness import environment

HEAVY = ("torch", "lightning", "transformers", "peft", "wandb", "pandas", "sklearn", "pyarrow", "datasets")
PROBE = (
    "import sys\n"
    "sys.argv = ['rft', *sys.argv[1:]]\n"
    "from rft.cli import main\n"
    "try:\n    main()\n"
    f"except SystemExit as end:\n    print('end', end.code, *[m for m in {HEAVY!r} if m in sys.modules])\n"
)


@pytest.mark.parametrize(
    ("arguments", "code", "seconds"),
    [
        # The limits are 0.5 s and 2 s on an idle machine; tests run beside others.
        (["--help"], 0, 1.0),
        (["run", "algorithm=ppo", "algorithm.clip_rang=0.1"], 2, 3.0),
        (["run", "algorithm=ppo", "algorithm.iterations=0"], 2, 3.0),
        (["run", "-m", "algorithm=ppo,dpo", "seed=0,1", "model.lora.rnk=4"], 2, 3.0),
        (["run", "algorithm=ppo", "--cfg", "job"], 0, 3.0),
    ],
)
def test_is_quick_and_imports_nothing_heavy(arguments: list[str], code: int, seconds: float, tmp_path: Path) -> None:
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *arguments],
            cwd=tmp_path,
            env=environment(tmp_path / "store"),
            capture_output=True,
            text=True,
            check=True,
        )
        taken.append(time.perf_counter() - started)
        assert done.stdout.splitlines()[-1] == f"end {code}"
        if taken[-1] < seconds:
            break
    assert min(taken) < seconds
    assert list(tmp_path.iterdir()) == []
