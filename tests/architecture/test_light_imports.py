"""What answers `--help` or refuses a config must not pay seconds of imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "transformers",
    "lightning",
    "pandas",
    "sklearn",
    "scipy",
    "peft",
    "wandb",
    "pyarrow",
    "datasets",
    "plotly",
    "openai",
)


def heavy_imports(module: str, path: Path | None = None) -> list[str]:
    """Which of HEAVY a fresh interpreter has loaded after `import module`; the module must be a file."""
    code = f"import sys, {module} as m; assert m.__file__; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "module", ["rft.cli", "rft.config", "rft.store", "rft.errors", "rft.progress", "rft.study.executors.hold"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_imports(module) == []


def test_a_heavy_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "between.py").write_text("import torch")
    (tmp_path / "planted.py").write_text("from between import torch")
    assert heavy_imports("planted", tmp_path) == ["torch"]


def test_a_heavy_import_inside_a_function_passes(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("def late():\n    import torch")
    assert heavy_imports("planted", tmp_path) == []
