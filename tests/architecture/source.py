"""The modules of a package as syntax trees, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rft"
CONF = ROOT / "conf"


@dataclass(frozen=True)
class Module:
    name: str  # dotted, "rft.ops.kl"; a package's __init__ has the package's name
    path: Path
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def place(self) -> str:
        return self.name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")

    def at(self, node: ast.stmt | ast.expr) -> str:
        return f"{self.place}:{node.lineno}"


def modules(package: Path = PACKAGE) -> Iterator[Module]:
    """Every module under `package`, in order of path."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield Module(name, path, path.read_text(encoding="utf-8"))


def plant(root: Path, files: dict[str, str]) -> Path:
    """A package `rft` below `root`, from relative path to source: the offenders that the checks must find."""
    package = root / "rft"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package
