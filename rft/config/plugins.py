"""Installed packages that add options: entry points ``rft.plugins`` (modules) and ``rft.conf`` (packages of YAML).

A plugin is found and read here, never executed: what is wrong with one breaks no other, and costs no import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rft.errors import UserError

MODULES, CONF = "rft.plugins", "rft.conf"
_BASE = frozenset({"rft", "torch", "lightning", "transformers", "peft"})


@dataclass(frozen=True, slots=True)
class Plugin:
    """What one installed distribution adds."""

    distribution: str
    version: str
    editable: bool
    names: tuple[str, ...]
    """Names of its entry points."""
    modules: tuple[str, ...]
    """Modules that its entry points name."""
    folders: tuple[Path, ...]
    """Its YAML: one folder a group in each."""
    faults: tuple[tuple[str, str], ...]
    """What is wrong with its entry points: the module that one names, and one line."""

    def __str__(self) -> str:
        return f"plugin {', '.join(self.names)} ({self.distribution} {self.version})"


def find_module(name: str) -> ModuleSpec | None:
    """Where a module is, or None if there is none; neither it nor its parent packages are imported."""
    head, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(head)
    except (ImportError, ValueError):  # an empty name, or a module made without a spec
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file.

    Raises:
        UserError: if it cannot be read, or where its syntax is wrong.
    """
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: {error.msg}; mend that line") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise UserError(f"{path}: cannot be read as Python: {error}; mend or reinstall it") from error


def _module_of(entry: EntryPoint) -> str:
    return entry.value.partition(":")[0].strip()


def _module_fault(entry: EntryPoint, distribution: str) -> str | None:
    spec = find_module(_module_of(entry))
    if spec is None:
        return (
            f"its entry point {MODULES} {entry.name!r} names the module {_module_of(entry)!r}, which is not there; "
            f"correct its pyproject.toml or reinstall {distribution}"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        parse(Path(spec.origin))
    except UserError as error:
        return str(error)
    return None


def _conf_folders(entry: EntryPoint) -> tuple[Path, ...]:
    spec = find_module(_module_of(entry))
    places = (spec.submodule_search_locations or ()) if spec else ()
    return tuple(folder for folder in map(Path, places) if folder.is_dir())


def _conf_fault(entry: EntryPoint, distribution: str) -> str | None:
    if _conf_folders(entry):
        return None
    return (
        f"its entry point {CONF} {entry.name!r} names the package {_module_of(entry)!r}, which is not there; "
        f"correct its pyproject.toml or reinstall {distribution}"
    )


def _editable(entry: EntryPoint) -> bool:
    """Whether the distribution is an editable install (PEP 610)."""
    try:
        told = json.loads((entry.dist.read_text("direct_url.json") if entry.dist else None) or "{}")
    except ValueError:
        return False
    return bool(told.get("dir_info", {}).get("editable", False))


def _plugin(distribution: str, entries: list[EntryPoint]) -> Plugin:
    conf = [entry for entry in entries if entry.group == CONF]
    faults = [(_module_of(e), (_module_fault if e.group == MODULES else _conf_fault)(e, distribution)) for e in entries]
    dist = entries[0].dist
    return Plugin(
        distribution=distribution,
        version=dist.version if dist else "unknown",
        editable=_editable(entries[0]),
        names=tuple(dict.fromkeys(entry.name for entry in entries)),
        modules=tuple(dict.fromkeys(_module_of(entry) for entry in entries if entry.group == MODULES)),
        folders=tuple(dict.fromkeys(folder for entry in conf for folder in _conf_folders(entry))),
        faults=tuple((module, text) for module, text in faults if text),
    )


@cache
def plugins() -> tuple[Plugin, ...]:
    """Every installed distribution that has one of the entry points, by name."""
    found: dict[str, list[EntryPoint]] = {}
    for group in (MODULES, CONF):
        for entry in entry_points(group=group):
            found.setdefault(entry.dist.name if entry.dist else "unknown", []).append(entry)
    return tuple(_plugin(name, found[name]) for name in sorted(found))


@cache
def allowed_packages() -> frozenset[str]:
    """Packages that ``_target_`` may name: ours, the base libraries, installed plugins, RFT_ALLOWED_PACKAGES."""
    added = {_module_of(entry).partition(".")[0] for entry in entry_points(group=MODULES)}
    asked = {p.strip() for p in os.environ.get("RFT_ALLOWED_PACKAGES", "").split(",") if p.strip()}
    return _BASE | added | asked


def _files(package: str) -> Iterator[tuple[str, Path]]:
    spec = find_module(package)
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.relative_to(folder).parts:
                yield path.relative_to(folder).as_posix(), path
    if spec and spec.submodule_search_locations is None and spec.origin:
        yield Path(spec.origin).name, Path(spec.origin)


def is_ours(target: str) -> bool:
    """Whether a module or class comes from rft or its base libraries."""
    return target.partition(".")[0] in _BASE


@cache
def code_digest(package: str) -> str | None:
    """sha256 over the files of the package that a module or class comes from; None for rft and its libraries.

    Not of its Python alone: prompts, word lists and weights that lie beside it decide what it computes as well.
    """
    package = package.partition(".")[0]
    if is_ours(package):
        return None
    digest = hashlib.sha256()
    for name, path in _files(package):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def class_digest(found: Any, target: str = "") -> str | None:
    """`code_digest` of a class and of what it inherits from other packages; None for a class of ours.

    Args:
        found: the class.
        target: the name that it was found by, if that may be another package's than the one that defines it.

    A stage's result is addressed by its settings and, through this, by the code of the plugin that computes it: an
    algorithm that was changed is trained again. Ours are under ``VERSIONS``.
    """
    own = (target or found.__module__).partition(".")[0]
    packages = [base.__module__.partition(".")[0] for base in getattr(found, "__mro__", (found,))]
    others = sorted({p for p in packages if not (p == own or is_ours(p) or p in sys.stdlib_module_names)})
    if not others or is_ours(own):
        return code_digest(own)
    return hashlib.sha256("\n".join(map(str, map(code_digest, (own, *others)))).encode()).hexdigest()
