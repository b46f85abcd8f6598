"""No pickles, no code from model repositories, no algorithm's name in a condition outside rft/algorithms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import CONF, PACKAGE, Module, modules, plant

PICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
SHARED_NAMES = frozenset({"sft"})  # also a stage: only counts where the condition speaks of an algorithm


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _unsafe_call(node: ast.Call) -> str | None:
    name = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in {f"{library}.{verb}" for library in PICKLES for verb in ("load", "loads", "Unpickler", "open")}:
        return f"{name} runs what the file says"
    if name == "torch.load" and "weights_only" in given and not _is(given["weights_only"], True):
        return "torch.load without weights_only=True"
    if _is(given.get("weights_only"), False):
        return "weights_only=False"
    if _is(given.get("allow_pickle"), True):
        return "allow_pickle=True"
    if _is(given.get("trust_remote_code"), True):
        return "trust_remote_code=True"
    return None


def _unsafe(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        return _unsafe_call(node)
    if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
        taken = {alias.name for alias in node.names} & {"load", "loads", "Unpickler"}
        return f"from {node.module} import {', '.join(sorted(taken))}" if taken else None
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and _is(value, True):
                return "trust_remote_code: True"
    return None


def unsafe_loads(package: Path) -> list[str]:
    """Calls that would run code from a file or a model repository."""
    found = []
    for module in modules(package):
        for node in ast.walk(module.tree):
            reason = _unsafe(node)
            if reason and isinstance(node, ast.stmt | ast.expr):
                found.append(f"{module.at(node)}: {reason}")
    return found


def _strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _conditions(module: Module) -> Iterator[tuple[ast.expr, str, set[str]]]:
    """Every comparison and `match`: where, what is asked about (source text), the strings it may equal."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = (ast.Constant, ast.Tuple, ast.List, ast.Set)
            asked = " ".join(ast.unparse(s) for s in sides if not isinstance(s, literal))
            yield node, asked, set().union(*(_strings(s) for s in sides if isinstance(s, literal)))
        elif isinstance(node, ast.Match):
            yield (
                node.subject,
                ast.unparse(node.subject),
                set().union(*(_strings(c.pattern) for c in node.cases)),
            )


def named_conditions(package: Path, names: frozenset[str]) -> list[str]:
    """Conditions outside rft/algorithms that name an algorithm."""
    found = []
    for module in modules(package):
        if module.name.startswith("rft.algorithms"):
            continue
        for node, asked, strings in _conditions(module):
            named = strings & (names if "algorithm" in asked.lower() else names - SHARED_NAMES)
            if named:
                found.append(f"{module.at(node)}: {asked} is compared with {', '.join(sorted(named))}")
    return found


def algorithm_names() -> frozenset[str]:
    files = {path.stem for path in (PACKAGE / "algorithms").glob("*.py")} - {"__init__", "base"}
    return frozenset(files | {path.stem for path in (CONF / "algorithm").glob("*.yaml")})


def test_nothing_runs_code_from_files() -> None:
    offenders = unsafe_loads(PACKAGE)
    assert not offenders, "\n".join(offenders)


def test_no_condition_names_an_algorithm() -> None:
    names = algorithm_names()
    assert {"sft", "ppo", "dpo", "rlaif"} <= names
    offenders = named_conditions(PACKAGE, names)
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle; pickle.load(f)",
        "from pickle import loads",
        "import joblib; joblib.load('x')",
        "import torch; torch.load(f, weights_only=False)",
        "import torch; torch.load(f, weights_only=flag)",
        "M.load_from_checkpoint(p, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "A.from_pretrained(p, trust_remote_code=True)",
        "A.from_pretrained(p, **{'trust_remote_code': True})",
    ],
)
def test_an_unsafe_load_is_found(tmp_path: Path, line: str) -> None:
    found = unsafe_loads(plant(tmp_path, {"models/load.py": line}))
    assert [entry.partition(" ")[0] for entry in found] == ["rft/models/load.py:1:"]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f, weights_only=True)",
        "torch.load(f)",
        "json.load(f)",
        "A(trust_remote_code=config.trust)",
    ],
)
def test_a_safe_load_passes(tmp_path: Path, line: str) -> None:
    assert unsafe_loads(plant(tmp_path, {"models/load.py": line})) == []


@pytest.mark.parametrize(
    "line",
    [
        "if algorithm == 'ppo': pass",
        "x = 1 if config.algorithm.name != 'sft' else 2",
        "if name in ('ppo', 'dpo'): pass",
        "if 'ppo' == arm: pass",
        "match trial['algorithm']:\n    case 'sft' | 'dpo':\n        pass",
    ],
)
def test_a_named_condition_is_found(tmp_path: Path, line: str) -> None:
    names = frozenset({"ppo", "dpo", "sft"})
    assert len(named_conditions(plant(tmp_path / "out", {"study.py": line}), names)) == 1
    assert named_conditions(plant(tmp_path / "in", {"algorithms/ppo.py": line}), names) == []


@pytest.mark.parametrize("line", ["if stage == 'sft': pass", "if group == 'algorithm': pass", "x = 'ppo'"])
def test_other_conditions_pass(tmp_path: Path, line: str) -> None:
    assert named_conditions(plant(tmp_path, {"study.py": line}), frozenset({"ppo", "sft"})) == []
