"""Gold is read by evaluation, monitoring and the simulated annotators alone: nothing that trains can see it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, Module, modules, plant
from tests.architecture.test_imports import imported

# What trains, and what carries batches to it; feedback.simulated is the reader that stands between.
TRAINING = (
    "rft.types",
    "rft.ops",
    "rft.models",
    "rft.rollout",
    "rft.rewards",
    "rft.feedback.ai",
    "rft.feedback.judges",
    "rft.data",
    "rft.algorithms",
    "rft.study.training",
)
READERS = ("rft.tasks", "rft.evaluation", "rft.feedback.simulated", "rft.feedback.annotators")


def _within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _names(node: ast.AST) -> list[str]:
    """What a node names: identifiers, and strings that may be a column, a metric or an attribute, but no prose."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Attribute():
            return [node.attr]
        case ast.arg() | ast.keyword():
            return [node.arg or ""]
        case ast.alias():
            return [node.name, node.asname or ""]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Constant(value=str(text)) if len(text.split()) == 1:
            return [text]
    return []


def _imports(module: Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Every imported module, and every name taken from one as if it were a module too."""
    yield from imported(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module not in (None, "rft"):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def gold_readers(package: Path, places: tuple[str, ...]) -> list[str]:
    """Where modules below `places` name gold or import a reader of it, each place once."""
    found: dict[str, str] = {}
    for module in modules(package):
        if not _within(module.name, places):
            continue
        for node, name in _imports(module):
            if _within(name, READERS):
                found.setdefault(module.at(node), f"imports {name}, which reads gold")
        for node in ast.walk(module.tree):
            for name in _names(node):
                if "gold" in name.lower():
                    found.setdefault(f"{module.place}:{node.lineno}", f"names {name!r}")  # type: ignore[attr-defined]
    return [f"{at}: {reason}" for at, reason in found.items()]


def test_nothing_that_trains_reads_gold() -> None:
    offenders = gold_readers(PACKAGE, TRAINING)
    assert not offenders, "\n".join(offenders)


def test_the_rule_speaks_of_what_there_is() -> None:
    for place in (*TRAINING, *READERS):
        assert any(_within(module.name, (place,)) for module in modules(PACKAGE)), place
    # Under another name than gold the rule would look for nothing.
    for reader in READERS:
        assert gold_readers(PACKAGE, (reader,)), reader


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("types.py", "class Rollouts:\n    gold: Tensor"),
        ("types.py", "class OnPolicyBatch:\n    gold_rewards: Tensor | None = None"),
        ("algorithms/ppo.py", "from rft.tasks.base import Task"),
        ("algorithms/base.py", "from rft import tasks"),
        ("algorithms/base.py", "def prepare(rollouts):\n    return rollouts.metrics['rollout/gold']"),
        ("data/offline.py", "def rows(task, path):\n    return task.load_gold(path)"),
        ("data/on_policy.py", "def late():\n    import rft.tasks.tfidf"),
        ("data/on_policy.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rft.tasks import Task"),
        ("rewards/learned.py", "def score(texts, source: GoldReward): ..."),
        ("rewards/learned.py", "getattr(task, 'load_gold')"),
        ("rewards/mixed.py", "from rft.feedback import simulated"),
        ("rollout/engine.py", "import importlib\nimportlib.import_module('rft.tasks')"),
        ("feedback/judges/peek.py", "def verdict(texts, gold=None): ..."),
        ("study/training.py", "from rft.feedback.annotators import load_annotators"),
    ],
)
def test_a_reader_among_what_trains_is_found(tmp_path: Path, path: str, line: str) -> None:
    found = gold_readers(plant(tmp_path, {path: line}), TRAINING)
    assert len(found) == 1
    assert found[0].startswith(f"rft/{path}:{len(line.splitlines())}: ")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("data/on_policy.py", '"""Gold is none of these: only evaluation reads it."""\nx = 1  # never the gold'),
        ("algorithms/ppo.py", "from rft.types import Rollouts"),
        ("feedback/simulated.py", "from rft.tasks.base import GoldReward"),
        ("evaluation/evaluate.py", "def evaluate(gold): ..."),
        ("study/shared.py", "def make_labels(task, path):\n    return task.load_gold(path)"),
    ],
)
def test_prose_and_the_permitted_readers_pass(tmp_path: Path, path: str, line: str) -> None:
    assert gold_readers(plant(tmp_path, {path: line}), TRAINING) == []
