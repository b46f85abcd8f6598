"""Composes and checks a run's configuration, with one-line refusals."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rft.config.build import split_target
from rft.config.extract import config_class, structured
from rft.config.files import not_yaml, read_option
from rft.config.launchers import GROUP, KINDS, check_launcher, launcher_keys, register_launchers
from rft.config.limits import (
    check_audit,
    check_conflict,
    check_filled,
    check_fit,
    check_names,
    check_ranges,
    check_secrets,
)
from rft.config.mistyped import mistyped
from rft.config.options import (
    GROUPS,
    NOBODY,
    SECOND,
    faults,
    options,
    refuse_faulty,
    warn_of_faults,
)
from rft.config.overrides import with_nobody
from rft.config.paths import conf_dir
from rft.config.plugins import plugins
from rft.config.schemas import REQUIRES, RunConfig
from rft.config.search import search_space
from rft.config.source import SCHEME, SchemaSource
from rft.errors import UserError, nearest

LONGEST_ARM = 48  # characters; longer ones are no names that a table can show
_CHOSEN = "|".join([GROUP, *GROUPS, *SECOND])
_COSMETIC = {"algorithm", "seed", "replicate", "study", "arm", "until", "evaluation.same_judge"}
_COSMETIC_START = ("tracker", "strategy.threads", "strategy.checkpoint_share", "eval_judge", "audit.")


class PluginSearchPath(SearchPathPlugin):
    """Puts the YAML of installed packages on Hydra's search path."""

    def manipulate_search_path(self, search_path: Any) -> None:
        """Append each plugin's folder, and the schemas of all options."""
        for folder in (folder for plugin in plugins() for folder in plugin.folders):
            search_path.append(provider="rft-plugin", path=f"file://{folder}")
        search_path.append(provider="rft-schema", path=f"{SCHEME}://")


def _arm(algorithm: str) -> str:
    """The algorithm's name, with the overrides that set this arm apart."""
    if not HydraConfig.initialized():
        return algorithm
    kept = []
    # A sweep writes 3e-3 as 0.003, and the order of overrides means nothing: neither makes another arm.
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key, value = override.key_or_group, override.value()
        if key not in _COSMETIC and not key.startswith(_COSMETIC_START):
            kept.append(f"{key.removeprefix('algorithm.')}={value}")
    name = re.sub(r"[^\w.,=+-]", "_", "-".join([algorithm, *sorted(kept)]))
    if len(name) <= LONGEST_ARM:
        return name
    # Cut names must stay different: they are folders, and two arms in one would overwrite each other.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_ARM - 9]}-{digest}"


def option_files() -> Iterator[tuple[str, Path]]:
    """Group and file of every option that can be chosen, ours and the plugins'."""
    faulty = {key for fault in faults() for key in fault.options}
    yield from ((option.group, option.path) for option in options() if option.key not in faulty)


def register() -> None:
    """Register schemas, resolver and search path with Hydra; before composing, any number of times."""
    ConfigStore.instance().store(group="schema", name="config", node=RunConfig, package="_global_")
    OmegaConf.register_new_resolver("rft_arm", _arm, replace=True)
    if PluginSearchPath not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PluginSearchPath)
        Plugins.instance().register(SchemaSource)
    register_launchers()


def _meant(group: str, algorithm: str) -> str:
    """The option of a group that an algorithm's YAML chooses; empty if it chooses none."""
    for option in options():
        if option.key == ("algorithm", algorithm):
            for chosen in read_option(option.path).get("defaults", []):
                for key, name in chosen.items() if isinstance(chosen, dict) else ():
                    if re.fullmatch(rf"override /{group}(@.*)?", key):
                        return str(name)
    return ""


def _keys_at(path: str, overrides: Sequence[str]) -> list[str]:
    """Valid keys of the node at ``path``, from the schemas and the options chosen."""
    chosen = dict(o.split("=", 1) for o in overrides if "=" in o)
    head, _, rest = path.partition(".")
    if path == "hydra.launcher":
        return launcher_keys(overrides)
    if not head:
        return [*RunConfig.__dataclass_fields__, "hydra"]
    if head in SECOND and head not in chosen:
        return []
    if head in GROUPS or head in SECOND:
        defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
        option = chosen.get(head) or _meant(head, chosen.get("algorithm", ""))
        option = option or next((d[head] for d in defaults if isinstance(d, dict) and head in d), "")
        targets = [read_option(o.path).get("_target_") for o in options() if o.key == (SECOND.get(head, head), option)]
        if not targets or targets[0] is None:
            return []
        node = structured(split_target(str(targets[0]))[0])
    else:
        node = OmegaConf.select(OmegaConf.structured(RunConfig), head)
    node = OmegaConf.select(node, rest) if rest else node
    return [str(k) for k in node] if isinstance(node, DictConfig) else []


def _no_option(group: str, option: str) -> UserError:
    """An option that is not there: by the fault of the plugin that should have it, or by a wrong name."""
    if group == GROUP:
        return UserError(f"{group}={option}: no such launcher; {nearest(option, list(KINDS))}")
    of = SECOND.get(group, group)
    for fault in faults():
        if (of, option) in fault.options or option in fault.names:
            return UserError(f"{group}={option}: cannot be used: {fault.text}")
    there = [o.name for o in options() if o.group == of] + ([NOBODY] if group in SECOND else [])
    return UserError(f"{group}={option}: no such option; {nearest(option, there)}")


def _explain(error: Exception, overrides: Sequence[str]) -> UserError:
    """One line for what Hydra or OmegaConf refused: what, where, how to mend."""
    if isinstance(error, yaml.YAMLError):
        return not_yaml(error)
    if isinstance(error.__cause__, UserError):
        return error.__cause__
    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(rf"Could not (?:find|load) '(?:schema/)?({_CHOSEN})/([^']*)'", text):
        return _no_option(*found.groups())
    if found := re.search(r"Could not find '(?:schema/)?([\w/]+)/([^/']+)'", text):
        return _no_option(*found.groups())
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return UserError(f"{found[1]}: several values make a sweep; start it as rft run -m {found[1]}")
    if found := re.search(r"Could not override '([^']+)'\. No match", text):
        return UserError(f"{found[1]}: no such group or key; {nearest(found[1], _keys_at('', overrides))}")
    if found := re.search(r"Key '([^']+)' is not in struct|Key '([^']+)' not in '", text):
        key = found[1] or found[2]
        full = re.search(r"full_key: ([\w.]+)", text)
        where = full[1] if full else key
        parent = where.rpartition(".")[0]
        if parent in SECOND and not any(one.startswith(f"{parent}=") for one in overrides):
            return UserError(f"{where}: no {parent} is chosen; choose one, as in {parent}={_first_option(parent)}")
        hint = nearest(key, _keys_at(parent, overrides))
        return UserError(f"{where}: no such key{f' in {parent}' if parent else ''}; {hint}")
    if found := re.search(r"full_key: ([\w.\[\]]+)", text):
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return UserError(mistyped(cause, found[1], overrides))
    line = next((x for x in str(error).splitlines() if x.strip()), type(error).__name__)
    return UserError(f"config: {line.strip()}; see `rft run --help`")


def check_group(group: str, node: Any, overrides: Sequence[str] = ()) -> type[Any]:
    """Check a group's option against its schema; returns the schema's class.

    Raises:
        UserError: naming the key.
    """
    if not isinstance(node, Mapping | DictConfig) or "_target_" not in node:
        raise UserError(f"{group}: choose an option, as in {group}={_first_option(group)}")
    module = split_target(str(node["_target_"]))[0]
    declared, schema = config_class(module), structured(module)
    values = {k: v for k, v in node.items() if k != "_target_"}
    valid = [str(k) for k in schema]
    for key in map(str, values):
        if key not in valid:
            raise UserError(f"{group}.{key}: no such key in {group}; {nearest(key, valid)}")
    try:
        typed = OmegaConf.merge(schema, values)
    except OmegaConfBaseException as error:
        raise UserError(
            mistyped(error, f"{group}.{'' if error.full_key is None else error.full_key}", overrides)
        ) from error
    assert isinstance(typed, DictConfig)
    check_ranges(declared, typed, f"{group}.")
    return declared


def _check_required(cfg: DictConfig) -> None:
    """Refuse other options than the algorithm's name stands for, by its fields ``requires_GROUP``."""
    for field in map(str, cfg.algorithm):
        needed = cfg.algorithm[field] if field.startswith(REQUIRES) else None
        if needed is not None:
            _check_option(cfg, field.removeprefix(REQUIRES), str(needed))


def _check_option(cfg: DictConfig, group: str, needed: str) -> None:
    """Refuse another option of a group than a certain one, by the classes that the options name."""
    if group not in GROUPS:
        raise UserError(f"algorithm.{REQUIRES}{group}: there is no group {group}; {nearest(group, GROUPS)}")
    target = str(cfg[group]["_target_"])
    files = {path.stem: path for of, path in option_files() if of == group}
    options = {
        name: (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("_target_") for name, path in files.items()
    }
    if options.get(needed) != target:
        given = next((name for name, other in options.items() if other == target), target)
        raise UserError(f"{group}={given}: algorithm={cfg.algorithm.name} means {group}={needed}; leave it out")


def check(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Check every group against its schema again: ``+`` and ``++`` pass by OmegaConf's own check.

    Raises:
        UserError: unknown key (with the nearest valid one), wrong type, missing value, foreign ``_target_``, a number
            out of its range, settings that do not fit each other.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), cfg)
        assert isinstance(merged, DictConfig)
        for missing in sorted(OmegaConf.missing_keys(merged) - set(GROUPS)):
            raise UserError(f"{missing}: has no value; give one as {missing}=…")
        classes = {group: check_group(group, merged[group], overrides) for group in GROUPS}
        for place in SECOND:
            merged[place] = merged[place] or None  # an option that holds nothing leaves an empty node
            if merged[place] is not None:
                classes[place] = check_group(place, merged[place], overrides)
        _check_required(merged)
        check_secrets(merged)
        check_ranges(RunConfig, merged, "")
        check_names(merged)
        for group in (group for group in classes if group != "algorithm"):  # an algorithm's is told by check_fit
            check_conflict(group, classes[group], merged[group])
        check_audit(merged)
        check_fit(merged, classes["algorithm"])
        search_space(classes["algorithm"])
    except OmegaConfBaseException as error:
        raise _explain(error, overrides) from error
    assert isinstance(merged, DictConfig)
    return merged


def _first_option(group: str) -> str:
    return next((o.name for o in options() if o.group == SECOND.get(group, group)), "…")


def _refuse_nameless(overrides: Sequence[str]) -> None:
    """Refuse what gives a group no name of one option: Hydra would speak of its own files, or end in a traceback."""
    for text in overrides:
        if text.startswith("~") and text[1:] in GROUPS:
            group = text[1:]
            raise UserError(
                f"{text}: {group} cannot be left out; choose an option, as in {group}={_first_option(group)}"
            )
        named = re.fullmatch(rf"(\+{{0,2}})({_CHOSEN})(@[^=]*)?=(.*)", text, re.DOTALL)
        if named is None:
            continue
        signs, group, place, given = named.groups()
        if signs == "++" or place:
            raise UserError(f"{text}: an option of {group} is chosen by {group}={given}; write it so")
        try:
            one = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise _no_option(group, given) from error
        if not one.is_sweep_override() and (not isinstance(one.value(), str) or not given.strip() or "${" in given):
            raise _no_option(group, given)


def _asked(overrides: Sequence[str]) -> set[tuple[str, str]]:
    """Options that overrides name: (group, name)."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:  # composing says what is wrong with it
        return set()
    named = {(SECOND.get(o.key_or_group, o.key_or_group), str(o.value())) for o in parsed}
    return {(group, name) for group, name in named if group in GROUPS}


def _composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of them, its own settings too, unchecked."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise _explain(error, overrides) from error


def compose_launcher(overrides: Sequence[str] = ()) -> DictConfig:
    """The checked settings of Hydra's launcher that overrides choose.

    Raises:
        UserError: one line, for whatever is wrong with them.
    """
    register()
    _refuse_nameless(overrides)
    found = _composed(overrides).hydra.launcher
    check_launcher(found)
    assert isinstance(found, DictConfig)
    return found


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The checked configuration of one run; what is wrong with plugins that it does not use is a line on stderr.

    Raises:
        UserError: one line, for whatever is wrong with the overrides or with the options that they choose.
    """
    register()
    overrides = with_nobody(overrides)
    _refuse_nameless(overrides)
    refuse_faulty(_asked(overrides))
    cfg = _composed(overrides)
    # Defaults choose options too, ours or those of an option.
    chosen = {str(group).partition("@")[0]: str(name) for group, name in cfg.hydra.runtime.choices.items()}
    known = {group: (SECOND.get(group, group), name) for group, name in chosen.items()}
    refuse_faulty(set(known.values()))
    check_launcher(cfg.hydra.launcher)
    with open_dict(cfg):
        del cfg["hydra"]
    checked = check(cfg, overrides)
    check_filled(checked, {place: one for place, one in known.items() if one[0] in GROUPS and checked[place]})
    warn_of_faults()
    return checked


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The runs of a sweep: the product of every comma-separated override, in Hydra's order."""
    _refuse_nameless(with_nobody(overrides))
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise _explain(error, overrides) from error
    axes = []
    for text, override in zip(overrides, parsed, strict=True):
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([text])
    return [list(run) for run in itertools.product(*axes)]
