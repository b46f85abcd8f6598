"""Imports go down only: a module may import its own layer and those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rft.testing.gold import imports
from tests.architecture.source import PACKAGE, Module, modules, plant

LAYERS = (  # highest first
    ("__main__", "cli", "study"),
    ("callbacks", "evaluation", "report", "testing"),
    ("algorithms",),
    ("data",),
    ("rollout", "feedback", "rewards"),
    ("models", "tasks", "strategy", "checkpoint"),
    ("ops", "precision"),
    ("store", "config", "types", "budget"),
    ("errors", "machine", "progress", "runtime", "secrets"),
)
HEIGHT = {name: len(LAYERS) - depth for depth, layer in enumerate(LAYERS) for name in layer}


def _part(dotted: str) -> str | None:
    """The layer's name of a module of rft; None for rft itself (it holds the version) and for others."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "rft" and len(parts) > 1 else None


def imported(module: Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING, by name."""
    return imports(module.tree, module.name, is_package=module.is_package)


def upward_imports(package: Path) -> list[str]:
    """Imports of a higher layer, and modules that belong to no layer."""
    offenders = []
    for module in modules(package):
        own = _part(module.name)
        if own is not None and own not in HEIGHT:
            offenders.append(f"{module.place}: {own!r} is in no layer; add it to LAYERS")
            continue
        height = 0 if own is None else HEIGHT[own]
        for node, name in imported(module):
            other = _part(name)
            if other is not None and HEIGHT.get(other, 0) > height:
                offenders.append(f"{module.at(node)}: {own or 'rft'} imports {name}, which is higher")
    return offenders


def test_imports_go_down_only() -> None:
    offenders = upward_imports(PACKAGE)
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    "line",
    [
        "import rft.algorithms.ppo",
        "from rft.algorithms import ppo",
        "from rft import algorithms",
        "from ..algorithms import ppo",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rft.algorithms.ppo import PPO",
        "def late():\n    from rft.algorithms.ppo import PPO",
        "import importlib\nimportlib.import_module('rft.algorithms.ppo')",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, line: str) -> None:
    found = upward_imports(plant(tmp_path, {"ops/losses.py": line, "ops/__init__.py": ""}))
    assert len(found) == 1
    assert found[0].startswith("rft/ops/losses.py:")


def test_all_offenders_are_listed(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {"errors.py": "import rft.store", "types.py": "from rft.models import load", "stray.py": ""},
    )
    assert [line.partition(":")[0] for line in upward_imports(package)] == [
        "rft/errors.py",
        "rft/stray.py",
        "rft/types.py",
    ]


def test_downward_sideways_and_foreign_imports_pass(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "cli.py": "import torch\nfrom rft import __version__, study\nfrom rft.errors import UserError",
            "data/__init__.py": "from .offline import Pairs",
            "data/offline.py": "from . import rows\nfrom rft.ops import losses",
        },
    )
    assert upward_imports(package) == []
