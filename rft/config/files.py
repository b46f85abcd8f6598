"""Reads the YAML file of an option and refuses what is wrong with it, with the file's name and the line.

The first half needs the file alone; `check_values` needs the ``Config`` that the file fills, executed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rft.config.mistyped import mistyped
from rft.config.ranges import out_of_range
from rft.errors import UserError, nearest

ALGORITHM = "algorithm"  # the group whose `name` is the arm, and so a folder of results
_HYDRA = frozenset({"defaults", "_target_"})


def read_option(path: Path) -> dict[str, Any]:
    """The keys of an option's file.

    Raises:
        UserError: if it is no YAML, with the line.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}; write it in UTF-8") from error
    except yaml.YAMLError as error:
        raise not_yaml(error, path) from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no keys; write `_target_: package.module.Class` and a `defaults` line")
    return found


def not_yaml(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """One line for a file that is no YAML; it names the file that the parser had open if no path is given."""
    mark: Any = getattr(error, "problem_mark", None)
    where = path or (mark.name if mark else "YAML")
    return UserError(
        f"{where}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}; mend that line"
    )


def line_of(path: Path, key: str) -> str:
    """``file:line`` of a dotted key, or of the nearest one above it that the file has."""
    node, line = yaml.compose(path.read_text(encoding="utf-8")), 0
    for part in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{path}:{line}" if line else str(path)


def _brought(values: Mapping[str, Any]) -> Iterator[str]:
    """What the defaults of a file put into it, each as ``config@package``."""
    for entry in values.get("defaults") or []:
        if isinstance(entry, Mapping):
            (group, name), *_ = entry.items()
            place, _, package = str(group).partition("@")
            text = f"{place}/{name}@{package}"
        else:
            text = str(entry)
        if text != "_self_" and not text.startswith(("override ", "optional ")):
            yield text


def starts_from(group: str, values: Mapping[str, Any], there: Collection[str]) -> str | None:
    """The option of the same group that a file's defaults start from; None if there is none.

    Args:
        group: of the file.
        values: what the file holds.
        there: names of the options of the group.
    """
    for text in _brought(values):
        name = text.partition("@")[0].removeprefix(f"/{group}/")
        if name in there:
            return name
    return None


def check_file(path: Path, group: str, values: Mapping[str, Any], there: Collection[str]) -> None:
    """Refuse what can be seen without the ``Config``: the schema it lacks, a name that is another option's.

    Args:
        path: the file, named as its option.
        group: of the option.
        values: what the file holds.
        there: names of the options of the group.

    Raises:
        UserError: naming file, line and mend.
    """
    own = f"/schema/{group}/{path.stem}@_here_"
    mend = f"write `defaults: [{own}, _self_]`"
    schemas = {f"/schema/{group}/{name}@_here_" for name in there}
    found = [text for text in _brought(values) if text.lstrip("/").startswith("schema/")]
    for text in found:
        if text not in schemas:
            raise UserError(f"{line_of(path, 'defaults')}: defaults: {text!r} is no schema of {group}; {mend}")
    base = starts_from(group, values, there)
    if "_target_" not in values and base is None:
        others = ", ".join(sorted(set(there) - {path.stem}))
        raise UserError(
            f"{path}: has no _target_; to set another option's fields anew write `defaults: [OPTION, _self_]`, where "
            f"OPTION is one of {others}; for a class of its own write `_target_: package.module.Class`, and {mend}"
        )
    if not found and base is None:
        raise UserError(f"{line_of(path, 'defaults')}: its defaults name no schema; {mend}")
    if group == ALGORITHM and ("name" in values or "_target_" not in values):
        check_name(path, str(values.get("name", base)))


def check_name(path: Path, name: str) -> None:
    """Refuse an algorithm under another name than its file's: results would go to the arm of that one.

    Raises:
        UserError: naming file, line and mend.
    """
    if name != path.stem:
        came = "has no name of its own" if name == "???" else f"name: {name}"
        raise UserError(
            f"{line_of(path, 'name')}: {came}; an algorithm is named as its file, by which its results are kept: "
            f"write `name: {path.stem}`"
        )


def check_values(path: Path, group: str, values: Mapping[str, Any], declared: type[Any], schema: DictConfig) -> None:
    """Refuse keys that a ``Config`` does not have, values of another type, and numbers out of their range.

    Args:
        path: the file.
        group: of the option.
        values: what the file holds.
        declared: the ``Config``.
        schema: a node with its fields.

    Raises:
        UserError: naming file, line, key and mend.
    """
    own = {key: value for key, value in values.items() if key not in _HYDRA}
    valid = [str(key) for key in schema]
    for key in map(str, own):
        if key not in valid:
            raise UserError(f"{line_of(path, key)}: {key}: no such key in {group}; {nearest(key, valid)}")
    try:
        typed = OmegaConf.merge(schema, own)
    except OmegaConfBaseException as error:
        key = "" if error.full_key is None else str(error.full_key)
        raise UserError(f"{line_of(path, key)}: {mistyped(error, key)}; correct it") from error
    assert isinstance(typed, DictConfig)
    for key in own:
        if OmegaConf.is_missing(typed, key) or OmegaConf.is_interpolation(typed, key):
            continue
        if wanted := out_of_range(declared, key, typed[key]):
            raise UserError(f"{line_of(path, key)}: {key}: {typed[key]}: must be {wanted}")
    if group == ALGORITHM:
        check_name(path, str(typed._get_node("name")))
