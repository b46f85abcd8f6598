"""Every option of a config group names a class of rft that exists, with a documented `Config` beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.source import CONF, ROOT, plant

HYDRA_OWN = frozenset({"hydra"})  # groups whose options are checked by Hydra's own schemas


def _options(conf: Path) -> Iterator[Path]:
    yield from (path for path in sorted(conf.rglob("*.yaml")) if path.parent != conf)


def _same_group(option: Path, values: dict[str, Any]) -> Iterator[Path]:
    """Options of the same group that this one starts from, by its defaults list."""
    for entry in values.get("defaults") or []:
        if isinstance(entry, str) and entry != "_self_" and not entry.startswith("/"):
            yield option.with_name(entry.partition("@")[0]).with_suffix(".yaml")


def _target(option: Path) -> str | None:
    values = yaml.safe_load(option.read_text(encoding="utf-8")) or {}
    if isinstance(values.get("_target_"), str):
        return str(values["_target_"])
    inherited = (_target(base) for base in _same_group(option, values) if base.is_file())
    return next((target for target in inherited if target), None)


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)


def undocumented_fields(config: ast.ClassDef) -> list[str]:
    """Fields of a dataclass without a docstring in the line below; a default set anew for an inherited
    field (an assignment without annotation or docstring) is no field of its own."""
    followed = zip(config.body, [*config.body[1:], None], strict=True)
    return [
        node.target.id
        for node, after in followed
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and "ClassVar" not in ast.unparse(node.annotation)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value)
    ]


def _faults(target: str, root: Path) -> Iterator[str]:
    module, _, name = target.rpartition(".")
    if target.split(".")[0] != "rft":
        yield f"{target} is not in rft"
        return
    stem = root.joinpath(*module.split("."))
    path = next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)
    if path is None:
        yield f"there is no module {module}"
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    if _class(tree, name) is None and name not in functions:
        yield f"{module} defines no {name}"
    config = _class(tree, "Config")
    if config is None or not any(ast.unparse(d).startswith("dataclass") for d in config.decorator_list):
        yield f"{module} has no dataclass Config"
        return
    yield from (f"{module}.Config.{field} has no docstring below it" for field in undocumented_fields(config))


def bad_options(conf: Path, root: Path) -> list[str]:
    """Faults of the options under `conf`, whose targets are looked up below `root`."""
    found = []
    for option in _options(conf):
        place = option.relative_to(conf).as_posix()
        if place.split("/")[0] in HYDRA_OWN:
            continue
        target = _target(option)
        if target is None:
            found.append(f"{place}: no _target_, own or from its defaults")
        else:
            found += [f"{place}: {fault}" for fault in _faults(target, root)]
    return found


def test_every_option_has_a_documented_schema() -> None:
    assert list(_options(CONF)), "no options found"
    offenders = bad_options(CONF, ROOT)
    assert not offenders, "\n".join(offenders)


GOOD = '''
from dataclasses import dataclass
@dataclass(frozen=True)
class Config:
    """Settings."""
    lr: float = 1e-4
    """Step size, above 0."""
class PPO: ...
'''


@pytest.mark.parametrize(
    ("option", "source", "fault"),
    [
        ("_target_: rft.algorithms.ppo.PPO", GOOD, None),
        ("lr: 1", GOOD, "no _target_"),
        ("", GOOD, "no _target_"),
        ("_target_: os.system", GOOD, "not in rft"),
        ("_target_: rft.algorithms.pp0.PPO", GOOD, "no module rft.algorithms.pp0"),
        ("_target_: rft.algorithms.ppo.PPo", GOOD, "defines no PPo"),
        ("_target_: rft.algorithms.ppo.PPO", "class PPO: ...", "no dataclass Config"),
        (
            "_target_: rft.algorithms.ppo.PPO",
            GOOD.replace("@dataclass(frozen=True)", ""),
            "no dataclass Config",
        ),
        (
            "_target_: rft.algorithms.ppo.PPO",
            GOOD.replace('"""Step size, above 0."""', ""),
            "Config.lr has no doc",
        ),
    ],
)
def test_a_bad_option_is_found(tmp_path: Path, option: str, source: str, fault: str | None) -> None:
    plant(tmp_path, {"algorithms/ppo.py": source})
    path = tmp_path / "conf" / "algorithm" / "ppo.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(option)
    path.with_name("variant.yaml").write_text("defaults: [ppo, /feedback: ai, _self_]\n")
    found = bad_options(tmp_path / "conf", tmp_path)
    if fault is None:
        assert found == []
    else:
        assert [line.partition(":")[0] for line in found] == ["algorithm/ppo.yaml", "algorithm/variant.yaml"]
        assert all(fault in line for line in found)
