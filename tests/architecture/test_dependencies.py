"""What rft imports is declared in pyproject.toml, what is declared is pinned, and malware is excluded."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.source import PACKAGE, ROOT, modules, plant
from tests.architecture.test_imports import imported


def declared() -> dict[str, Requirement]:
    """Every requirement of pyproject.toml, extras too, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pinned() -> dict[str, str]:
    """The constraints file: canonical name to exact version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def undeclared(package: Path, names: set[str]) -> list[str]:
    """Imports of installed distributions that are not among `names`."""
    providers = packages_distributions()
    found = []
    for module in modules(package):
        for node, name in imported(module):
            root = name.partition(".")[0]
            if root in {"rft", ""} or root in sys.stdlib_module_names:
                continue
            if not names & {canonicalize_name(d) for d in providers.get(root, [root])}:
                found.append(f"{module.at(node)}: {root} is no dependency in pyproject.toml")
    return found


def test_every_import_is_declared() -> None:
    offenders = undeclared(PACKAGE, set(declared()))
    assert not offenders, "\n".join(offenders)


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    package = plant(tmp_path, {"study.py": "import json\nimport numpy.linalg\ndef f():\n    import execnet, nowhere"})
    assert undeclared(package, {"numpy"}) == [
        "rft/study.py:4: execnet is no dependency in pyproject.toml",
        "rft/study.py:4: nowhere is no dependency in pyproject.toml",
    ]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = pinned()
    off = [str(r) for name, r in declared().items() if not r.specifier.contains(pins.get(name, "none"))]
    assert off == []


def test_the_malware_releases_of_lightning_are_refused() -> None:
    allowed = declared()["lightning"].specifier
    assert [v for v in ("2.6.1", "2.6.2", "2.6.3", "2.6.6") if allowed.contains(v)] == ["2.6.1", "2.6.6"]
