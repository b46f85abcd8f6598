"""Reads an option's ``Config`` dataclass without importing its module.

An algorithm's file imports torch and Lightning, which take seconds; a misspelt key must be refused before that.
So the ``Config`` class (with the enums and dataclasses beside it) is taken from the source and only those parts
are executed. The rule for authors: a ``Config`` uses builtins, the standard library, ``omegaconf`` and
``rft.config``, and may extend another option's ``Config`` imported by name.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from rft.errors import UserError

_LIGHT = ("rft.config", "omegaconf")


def _is_light(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or any(module == m or module.startswith(m + ".") for m in _LIGHT)


def source_of(module: str) -> Path:
    """The file of a module, found without importing it (its parent packages are imported).

    Raises:
        UserError: if there is no such module.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"_target_: there is no module {module!r}; correct the name or install its package")
    return Path(spec.origin)


def _selected(tree: ast.Module) -> list[ast.stmt]:
    """The light imports, and the enums and dataclasses of a module."""
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            kept.append(node)
            continue
        light_import = isinstance(node, ast.ImportFrom) and node.module and _is_light(node.module)
        light_module = isinstance(node, ast.Import) and all(_is_light(a.name) for a in node.names)
        if light_import or light_module:
            kept.append(node)
        elif isinstance(node, ast.ClassDef):
            decorators = [ast.unparse(d) for d in node.decorator_list]
            bases = [ast.unparse(b) for b in node.bases]
            if node.name.endswith("Config") and any(d.startswith("dataclass") for d in decorators):
                kept.append(node)
            elif any(b.endswith("Enum") for b in bases):
                kept.append(node)
    return kept


def _imported(tree: ast.Module) -> dict[str, type]:
    """``from some.option import Config as Name`` at the top of a module, extracted in turn."""
    found: dict[str, type] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not _is_light(node.module):
            for alias in node.names:
                if alias.name.endswith(("Config", "Enum")):
                    found[alias.asname or alias.name] = getattr(_shell(node.module), alias.name)
    return found


@cache
def _shell(module: str) -> types.ModuleType:
    """A module that holds only the dataclasses and enums of another one's source."""
    path = source_of(module)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    shell = types.ModuleType(f"{module}:Config")
    shell.__dict__.update(_imported(tree))
    sys.modules[shell.__name__] = shell  # dataclasses and omegaconf look annotations up there
    code = compile(ast.Module(body=_selected(tree), type_ignores=[]), str(path), "exec")
    exec(code, shell.__dict__)
    return shell


def config_class(module: str) -> type[Any]:
    """The ``Config`` dataclass of a module, the same object at every call.

    Raises:
        UserError: if the module has no ``Config``.
    """
    found = getattr(_shell(module), "Config", None)
    if not isinstance(found, type):
        raise UserError(f"{module}: has no dataclass named Config; an option's module declares its fields there")
    return found
