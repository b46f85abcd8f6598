"""Reads an option's ``Config`` dataclass without importing its module.

An algorithm's file imports torch and Lightning, which take seconds; a misspelt key must be refused before that.
So the ``Config`` class (with the enums and dataclasses beside it) is taken from the source, and only those parts are
executed, once the option is chosen. The rule for authors: a ``Config`` uses builtins, the standard library,
``omegaconf`` and ``rft.config``, and may extend another option's ``Config`` imported by name.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from rft.config.plugins import find_module, parse
from rft.errors import UserError

_LIGHT = ("rft.config", "omegaconf")


def _is_light(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or any(module == m or module.startswith(m + ".") for m in _LIGHT)


def one_line(error: BaseException) -> str:
    """An exception's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def source_of(module: str) -> Path:
    """The file of a module, found without importing it or its parent packages.

    Raises:
        UserError: if there is no such module.
    """
    spec = find_module(module)
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
        light_import = isinstance(node, ast.ImportFrom) and node.module and not node.level and _is_light(node.module)
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


def _imported(tree: ast.Module, kept: list[ast.stmt], package: str) -> dict[str, Any]:
    """``from some.option import Config as Name`` at the top of a module, extracted in turn if what is kept uses it."""
    used = {name.id for node in kept for name in ast.walk(node) if isinstance(name, ast.Name)}
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or not _is_light(node.module)):
            module = importlib.util.resolve_name("." * node.level + node.module, package)
            for alias in node.names:
                name = alias.asname or alias.name
                if name in used and alias.name.endswith(("Config", "Enum")):
                    found[name] = getattr(_shell(module), alias.name, None)
    return {name: value for name, value in found.items() if value is not None}


@cache
def _shell(module: str) -> types.ModuleType:
    """A module that holds only the dataclasses and enums of another one's source.

    Raises:
        UserError: if they cannot be executed.
    """
    path = source_of(module)
    tree = parse(path)
    kept = _selected(tree)
    shell = types.ModuleType(f"{module}:Config")
    sys.modules[shell.__name__] = shell  # dataclasses and omegaconf look annotations up there
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        shell.__dict__.update(_imported(tree, kept, package))
        exec(compile(ast.Module(body=kept, type_ignores=[]), str(path), "exec"), shell.__dict__)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may do anything here, sys.exit too, and end no command by it
        raise UserError(
            f"{path}: its Config cannot be read: {one_line(error)}; a Config may use builtins, the standard library, "
            "omegaconf and rft.config"
        ) from error
    return shell


def config_class(module: str) -> type[Any]:
    """The ``Config`` dataclass of a module, the same object at every call.

    Raises:
        UserError: if the module has no ``Config``, or one that cannot be read.
    """
    found = getattr(_shell(module), "Config", None)
    if not isinstance(found, type):
        raise no_config(source_of(module))
    return found


def no_config(source: Path) -> UserError:
    """What is said of an option's module without a ``Config``."""
    return UserError(f"{source}: has no dataclass named Config; an option's module declares its fields there")


def structured(module: str) -> DictConfig:
    """A node with the fields and defaults of a module's ``Config``.

    Raises:
        UserError: if it has none, or one that cannot be read or holds what no configuration can hold.
    """
    declared = config_class(module)
    try:
        return cast(DictConfig, OmegaConf.structured(declared))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's dataclass may hold anything, and its default_factory do anything
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{source_of(module)}: Config: {line}; use bool, int, float, str, enums, lists and dataclasses"
        ) from error
