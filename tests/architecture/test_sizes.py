"""Sizes of the house style: an algorithm 150 lines, a module 400, a function 60, complexity 10."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT, Module, modules, plant

ALGORITHM_LINES, MODULE_LINES, FUNCTION_LINES = 150, 400, 60


def _limit(module: Module) -> int:
    shared = module.path.name in {"__init__.py", "base.py", "contract.py", "declared.py"}
    return ALGORITHM_LINES if module.name.startswith("rft.algorithms.") and not shared else MODULE_LINES


def oversized(package: Path) -> list[str]:
    """Modules and functions longer than the style allows; a function counts from `def` to its last line."""
    offenders = []
    for module in modules(package):
        lines = len(module.text.splitlines())
        if lines > _limit(module):
            offenders.append(f"{module.place}: {lines} lines, at most {_limit(module)}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    offenders.append(f"{module.at(node)}: {node.name}, {length} lines, at most {FUNCTION_LINES}")
    return offenders


def too_complex(package: Path) -> list[str]:
    """Functions above ruff's C901 limit of pyproject.toml."""
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    command += ["--select", "C901", "--output-format", "json", str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [f"{Path(d['filename']).name}:{d['location']['row']}: {d['message']}" for d in json.loads(done.stdout)]


def test_modules_and_functions_are_small() -> None:
    offenders = oversized(PACKAGE)
    assert not offenders, "\n".join(offenders)


def test_functions_are_simple() -> None:
    offenders = too_complex(PACKAGE)
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("algorithms/ppo.py", 150),
        ("algorithms/base.py", 400),
        ("algorithms/__init__.py", 400),
        ("cli.py", 400),
    ],
)
def test_a_long_module_is_found(tmp_path: Path, path: str, limit: int) -> None:
    assert oversized(plant(tmp_path / "good", {path: "x = 1\n" * limit})) == []
    assert oversized(plant(tmp_path / "bad", {path: "x = 1\n" * (limit + 1)})) == [
        f"rft/{path}: {limit + 1} lines, at most {limit}"
    ]


def test_a_long_function_is_found(tmp_path: Path) -> None:
    def source(lines: int) -> str:
        return "class A:\n    async def f(self):\n" + "        x = 1\n" * (lines - 1)

    assert oversized(plant(tmp_path / "good", {"study.py": source(60)})) == []
    assert oversized(plant(tmp_path / "bad", {"study.py": source(61)})) == ["rft/study.py:2: f, 61 lines, at most 60"]


def test_a_complex_function_is_found(tmp_path: Path) -> None:
    def source(branches: int) -> str:
        return "def f(x):\n" + "".join(f"    if x == {i}:\n        return {i}\n" for i in range(branches))

    assert too_complex(plant(tmp_path / "good", {"study.py": source(9)})) == []
    found = too_complex(plant(tmp_path / "bad", {"study.py": source(10)}))
    assert len(found) == 1
    assert found[0].startswith("study.py:1: `f` is too complex")
