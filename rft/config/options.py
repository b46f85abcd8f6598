"""The options of every group, ours and the plugins', what is wrong with them, and their schemas.

Of an option that is not chosen nothing is executed: its YAML and its module's source are read. Its ``Config`` is
executed once it is chosen (`executed_fault`, `schema`).
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rft.config.build import split_target
from rft.config.extract import config_class, no_config, source_of, structured
from rft.config.files import check_file, check_values, read_option, starts_from
from rft.config.paths import conf_dir
from rft.config.plugins import Plugin, parse, plugins
from rft.errors import UserError, nearest

GROUPS = (
    "task",
    "model",
    "start",
    "feedback",
    "judge",
    "reward",
    "algorithm",
    "strategy",
    "tracker",
    "budget",
    "sweep",
)
SECOND = {"eval_judge": "judge"}
"""A second place for an option of a group: the final test's judge beside that of training."""
NOBODY = "none"
"""Chosen for a second place that stays empty."""
_TOLD = "RFT_PLUGIN_WARNINGS"  # the processes of a sweep inherit what has been told


@dataclass(frozen=True, slots=True)
class Option:
    """One YAML file of a group."""

    group: str
    name: str
    path: Path
    plugin: Plugin | None
    """Who adds it; None: rft itself."""

    @property
    def key(self) -> tuple[str, str]:
        """Group and name, which must be one option's alone."""
        return self.group, self.name

    @property
    def origin(self) -> str:
        """Who adds it, in words."""
        return "rft itself" if self.plugin is None else str(self.plugin)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a plugin: a warning while none of its options is chosen, an error once one is."""

    text: str
    options: frozenset[tuple[str, str]]
    """Options that cannot be chosen for it: (group, name)."""
    names: frozenset[str] = frozenset()
    """Names under which a user may look for what it should have added."""


@cache
def options() -> tuple[Option, ...]:
    """Every option of every group; ours first."""
    roots: list[tuple[Path, Plugin | None]] = [(conf_dir(), None)]
    roots += [(folder, plugin) for plugin in plugins() for folder in plugin.folders]
    return tuple(
        Option(group, path.stem, path, plugin)
        for root, plugin in roots
        for group in GROUPS
        for path in sorted((root / group).glob("*.yaml"))
    )


@cache
def _defined(source: Path) -> frozenset[str]:
    """Names that a module defines or imports.

    Raises:
        UserError: if it cannot be read.
    """
    found: set[str] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def _target(option: Option) -> tuple[str, dict[str, Any]] | None:
    """An option's ``_target_`` and keys, with all that can be refused by reading; None if it starts from another one.

    Raises:
        UserError: what is wrong.
    """
    values = read_option(option.path)
    check_file(option.path, option.group, values, names(option.group))
    if not (target := values.get("_target_")):
        return None
    module, name = split_target(str(target))
    if option.plugin and (fault := dict(option.plugin.faults).get(module)):
        raise UserError(fault)
    source = source_of(module)
    defined = _defined(source)
    if not {name, "*"} & defined:
        raise UserError(f"{option.path}: _target_={target}: {source} defines no {name}; correct one of the two")
    if not {"Config", "*"} & defined:
        raise no_config(source)
    return str(target), values


def names(group: str) -> list[str]:
    """The options of a group."""
    return [option.name for option in options() if option.group == group]


def _module(option: Option, deep: int = 8) -> str:
    """The module that an option's values are for: its own, or that of the option that it starts from.

    Raises:
        UserError: if that one cannot be read, or they start from each other.
    """
    found = _target(option)
    if found is not None:
        return split_target(found[0])[0]
    base = starts_from(option.group, read_option(option.path), names(option.group))
    if deep == 0 or base == option.name:
        raise UserError(f"{option.path}: starts from itself; name another option in its defaults")
    return _module(next(o for o in options() if o.key == (option.group, base)), deep - 1)


def names_of(group: str, target: str) -> list[str]:
    """The options of a group that build this class, with those that start from them."""
    return [option.name for option in options() if option.group == group and _class_of(option) == target]


def _class_of(option: Option, deep: int = 8) -> str | None:
    """The class that an option builds, as its file or that of the option it starts from says; None if none says."""
    values = read_option(option.path)
    if (target := values.get("_target_")) or deep == 0:
        return None if target is None else str(target)
    base = starts_from(option.group, values, names(option.group))
    return next((_class_of(one, deep - 1) for one in options() if one.key == (option.group, base)), None)


def option_like(group: str, values: Mapping[str, Any]) -> str | None:
    """The option of a group that settings are nearest to; None if none builds their class.

    Several options may build one class, as `hf`, `pairwise` and `constitution` do. Nearest is the one with the fewest
    settings of another value than it states or, where it states none, than the class's default; of two as near, the one
    that states more.

    Args:
        group: of the options.
        values: plain settings with their ``_target_``, enums by name.
    """
    target = str(values["_target_"])
    names = names_of(group, target)
    if len(names) < 2:
        return names[0] if names else None
    defaults = OmegaConf.to_container(structured(split_target(target)[0]), enum_to_str=True)
    assert isinstance(defaults, dict)

    def unlike(name: str) -> tuple[int, int]:
        stated = _stated(next(option for option in options() if option.key == (group, name)))
        wanted = {**defaults, **stated}
        return sum(key in values and values[key] != one for key, one in wanted.items()), -len(stated)

    return min(names, key=unlike)


def node_of(group: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plain configuration of an option that another one chooses by its name.

    Args:
        group: of the option.
        name: of the option.
        settings: over those that its file states.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    option = next((option for option in options() if option.key == (group, name)), None)
    if option is None or (target := _class_of(option)) is None:
        raise UserError(f"{group}={name}: no such option; {nearest(name, names(group))}")
    defaults = OmegaConf.to_container(structured(split_target(target)[0]), enum_to_str=True)
    assert isinstance(defaults, dict)
    return {"_target_": target, **{str(key): value for key, value in defaults.items()}, **_stated(option), **settings}


def set_apart(group: str, name: str) -> tuple[str | None, Mapping[str, Any]]:
    """The option that an option starts from, None if it starts from none, and what its own file holds."""
    found = next((option for option in options() if option.key == (group, name)), None)
    if found is None:
        return None, {}
    values = read_option(found.path)
    return starts_from(group, values, names(group)), values


def _stated(option: Option, deep: int = 8) -> dict[str, Any]:
    """The settings that an option's file states, over those of the option that it starts from."""
    values = read_option(option.path)
    own = {key: value for key, value in values.items() if key not in ("defaults", "_target_") and value != "???"}
    base = starts_from(option.group, values, names(option.group)) if deep else None
    below = next((_stated(one, deep - 1) for one in options() if one.key == (option.group, base)), {})
    return {**below, **own}


def _schema(option: Option) -> dict[str, Any] | None:
    """The node ``schema/group/name``; None if the option starts from another one."""
    found, module = _target(option), _module(option)
    values, node = read_option(option.path), structured(module)
    check_values(option.path, option.group, values, config_class(module), node)
    if found is None:
        return None
    target, values = found
    defaults = OmegaConf.to_container(node, enum_to_str=True)
    assert isinstance(defaults, dict)
    asked = {k: v for k, v in values.items() if v == "???"}  # merging would keep the default instead
    return {"_target_": target, **{str(k): v for k, v in defaults.items()}, **asked}


@cache
def _fault_read(option: Option) -> str | None:
    """What can be seen to be wrong with an option without executing any of it."""
    try:
        _target(option)
    except UserError as error:
        return str(error)
    return None


@cache
def _executed(option: Option) -> tuple[dict[str, Any] | None, str | None]:
    """An option's schema, and its fault."""
    try:
        return _schema(option), None
    except UserError as error:
        return None, str(error)


def executed_fault(option: Option) -> str | None:
    """What is wrong with an option by itself; its ``Config`` is executed."""
    return _executed(option)[1]


def schema(group: str, name: str) -> dict[str, Any] | None:
    """The schema of an option, whose ``Config`` is executed; of two with one name, the first's.

    Raises:
        UserError: if it cannot be read.
    """
    for option in options():
        if option.key == (group, name):
            node, error = _executed(option)
            if error is not None:
                raise UserError(_text(option.plugin, error, {option.key}))
            return node
    return None


def _text(plugin: Plugin | None, error: str, keys: Collection[tuple[str, str]]) -> str:
    chosen = "".join(f"{group}={name}: " for group, name in sorted(keys))
    return f"{plugin or 'rft itself'}: {chosen}{error}"


def told(plugin: Plugin | None, error: str, keys: frozenset[tuple[str, str]]) -> Fault:
    """A fault in a plugin's name."""
    return Fault(_text(plugin, error, keys), keys, frozenset(plugin.names) if plugin else frozenset())


def _own_faults(plugin: Plugin | None) -> Iterator[Fault]:
    """Faults of one plugin: each once, whichever of its options have it."""
    found: dict[str, set[tuple[str, str]]] = {text: set() for _, text in (plugin.faults if plugin else ())}
    for folder in plugin.folders if plugin else ():
        if not any(option.path.is_relative_to(folder) for option in options()):
            found[f"{folder}: holds no option; put them into {', '.join(f'{group}/' for group in GROUPS)}"] = set()
    for option in options():
        if option.plugin == plugin and (error := _fault_read(option)):
            found.setdefault(error, set()).add(option.key)
    for text, keys in found.items():
        yield told(plugin, text, frozenset(keys))


def _shared_names() -> Iterator[Fault]:
    """Options that more than one defines."""
    by_key: dict[tuple[str, str], list[Option]] = {}
    for option in options():
        by_key.setdefault(option.key, []).append(option)
    for (group, name), same in by_key.items():
        if len(same) > 1:
            who = " and ".join(f"{option.origin} ({option.path})" for option in same)
            added = next(option.plugin for option in reversed(same) if option.plugin)
            yield Fault(
                f"{group}={name}: defined by {who}; uninstall one, as in `pip uninstall {added.distribution}`, or "
                "rename its file",
                frozenset({(group, name)}),
            )


@cache
def faults() -> tuple[Fault, ...]:
    """All that can be seen to be wrong with options and plugins without executing any of them."""
    owners: tuple[Plugin | None, ...] = (None, *plugins())
    return tuple(fault for owner in owners for fault in _own_faults(owner)) + tuple(_shared_names())


def refuse_faulty(chosen: Collection[tuple[str, str]]) -> None:
    """Refuse options that cannot be used; their ``Config`` is executed.

    Raises:
        UserError: what is wrong with the first of them.
    """
    for fault in faults():
        if fault.options & set(chosen):
            raise UserError(fault.text)
    for group, name in sorted(chosen):
        schema(group, name)


def warn_of_faults() -> None:
    """Tell on stderr what is left out and why; once for a command with all processes that it starts."""
    before = os.environ.get(_TOLD, "").split("\n")
    fresh = [fault.text for fault in faults() if fault.text not in before]
    for text in fresh:
        sys.stderr.write(f"rft: warning: {text}\n")
    if fresh:
        os.environ[_TOLD] = "\n".join([*before, *fresh])
