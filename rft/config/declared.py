"""What a class declares, read from its source: its module, which may load torch, is not imported."""

from __future__ import annotations

import ast
from typing import Any

from rft.config.build import target_class
from rft.config.extract import source_of
from rft.config.plugins import parse
from rft.errors import UserError


def declared(target: str, name: str) -> Any:
    """A constant that the body of a class sets: a literal, or a ``frozenset`` of one; its own, or its nearest base's.

    What no literal says is read from the class itself, imported.

    Args:
        target: module and class.
        name: of the constant, which the class or one of its bases has.

    Raises:
        UserError: if there is no such class, or its module cannot be imported.
    """
    try:
        return _read(target, name)
    except (LookupError, ValueError):  # nothing that reading tells
        return getattr(target_class({"_target_": target}), name)


def _read(target: str, name: str) -> Any:
    """As `declared`.

    Raises:
        LookupError: if the source has no such class, or it and its bases set no such constant.
        ValueError: if it is no literal.
    """
    module, _, wanted = target.rpartition(".")
    try:
        body = parse(source_of(module)).body
    except UserError as error:
        raise LookupError(module) from error
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if wanted == (alias.asname or alias.name):
                    return _read(f"{node.module}.{alias.name}", name)
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            return _of_class(node, module, name)
    raise LookupError(target)


def _of_class(found: ast.ClassDef, module: str, name: str) -> Any:
    for node in found.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                return _literal(node.value)
    for base in found.bases:
        if isinstance(base, ast.Name):
            try:
                return _read(f"{module}.{base.id}", name)
            except LookupError:
                continue
    raise LookupError(name)


def _literal(value: ast.expr | None) -> Any:
    if value is None:
        raise LookupError
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "frozenset":
        return frozenset(ast.literal_eval(value.args[0])) if value.args else frozenset()
    return ast.literal_eval(value)
