"""Who reads the hidden gold reward, told from the source: a name is enough, so that no detour helps.

Gold is read by evaluation, monitoring, the simulated annotators and the simulated judge alone. Nothing that trains, and
nothing else that scores or judges for training, may name it or import one of its readers.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READERS = (
    "rft.tasks",
    "rft.evaluation",
    "rft.feedback.simulated",
    "rft.feedback.mixed",
    "rft.feedback.annotators",
    "rft.feedback.judges.simulated",
)


def within(name: str, places: tuple[str, ...]) -> bool:
    """Whether a dotted module name is one of the places or below one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package=is_package)
            # From the package itself come modules: `from rft import tasks`.
            names = [base] if base != "rft" else [f"rft.{a.name}" for a in node.names if a.name != "__version__"]
            yield from ((node, name) for name in names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node, first.value


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    base = node.module or ""
    if not node.level:
        return base
    package = module.split(".")
    kept = len(package) - node.level + is_package
    return ".".join([*package[:kept], *([base] if base else [])])


def _named(node: ast.AST) -> list[str]:
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


def _reached(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Every imported module, and every name taken from one as if it were a module too."""
    yield from imports(tree, module, is_package=is_package)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (base := _absolute(node, module, is_package=is_package)) != "rft":
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def gold_readers(source: Path, module: str = "", place: str = "") -> list[str]:
    """Where a file names gold or imports a reader of it, each line once.

    Args:
        source: the Python file.
        module: its dotted name, for relative imports.
        place: what stands for the file in the answers; its path if empty.

    Returns:
        ``place:line: reason`` for each.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    where, found = place or str(source), dict[int, str]()
    for node, name in _reached(tree, module, is_package=source.name == "__init__.py"):
        if within(name, READERS):
            found.setdefault(node.lineno, f"imports {name}, which reads gold")
    for other in ast.walk(tree):
        for name in _named(other):
            if "gold" in name.lower():
                found.setdefault(other.lineno, f"names {name!r}")  # type: ignore[attr-defined]
    return [f"{where}:{line}: {reason}" for line, reason in found.items()]


def sources_of(found: type[Any]) -> dict[str, Path]:
    """The files in which a class and its bases are written, with what these import of their own package.

    Of rft itself only the class's own file counts: the rest of it is checked by rft's own tests.
    """
    package = found.__module__.partition(".")[0]
    own = set() if package == "rft" else {package}
    waiting = [found.__module__, *(base.__module__ for base in found.__mro__)]
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name in files or (name != found.__module__ and name.partition(".")[0] not in own):
            continue
        path = _file_of(name, found)
        if path is None:
            continue
        files[name] = path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += [other for _, other in _reached(tree, name, is_package=path.name == "__init__.py")]
    return files


def _file_of(module: str, found: type[Any]) -> Path | None:
    if module == found.__module__:
        source = inspect.getsourcefile(found)
        return None if source is None else Path(source)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a name taken from a module, which is none itself
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def class_gold_readers(found: type[Any]) -> list[str]:
    """`gold_readers` of everything that a class is written in (`sources_of`)."""
    return [line for name, path in sources_of(found).items() for line in gold_readers(path, name)]
