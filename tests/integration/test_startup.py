"""Whatever needs nothing heavy is quick: help, and the refusal of a configuration."""

from __future__ import annotations

import resource
import subprocess
import sys
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


FLOOR = "import hydra, hydra.core.override_parser.overrides_parser, omegaconf, rich.console, typer"


def processor_seconds(code: str, arguments: list[str], cwd: Path) -> tuple[float, str]:
    """What a fresh interpreter computes, and what it prints; tests that run beside it do not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment(cwd / "store"),
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "times"),
    [
        # Of what importing Hydra and typer alone takes.
        (["--help"], 0, 1.5),
        (["run", "algorithm=ppo", "algorithm.clip_rang=0.1"], 2, 6.0),
        (["run", "algorithm=ppo", "algorithm.iterations=0"], 2, 6.0),
        (["run", "-m", "algorithm=ppo,dpo", "seed=0,1", "model.lora.rnk=4"], 2, 6.0),
        (["run", "algorithm=ppo", "--cfg", "job"], 0, 7.0),
    ],
)
def test_is_quick_and_imports_nothing_heavy(arguments: list[str], code: int, times: float, tmp_path: Path) -> None:
    taken = []
    for _ in range(3):
        floor, _ = processor_seconds(FLOOR, [], tmp_path)
        seconds, printed = processor_seconds(PROBE, arguments, tmp_path)
        assert printed.splitlines()[-1] == f"end {code}"
        taken.append(seconds / floor)
        if taken[-1] < times:
            break
    assert min(taken) < times, taken
    assert list(tmp_path.iterdir()) == []
