"""Refuses settings that are out of their range or do not fit each other, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig, ListConfig, OmegaConf

from rft.config.extract import one_line
from rft.config.options import set_apart
from rft.config.ranges import out_of_range
from rft.config.schemas import SPLITS, OnPolicyConfig, PreferenceConfig
from rft.errors import UserError, nearest
from rft.secrets import secret_settings

LEAST_AUDITED = 10
"""Pairs of an audit: fewer may leave a figure undefined, and say nothing."""


def check_ranges(config: type[Any], node: DictConfig, where: str) -> None:
    """Refuse a value that is out of the range its field declares, in the node or in a dataclass anywhere below it.

    Args:
        config: the dataclass of the node.
        node: its values.
        where: the node's path, empty or with a dot at its end.

    Raises:
        UserError: naming key, value and range.
    """
    for name in map(str, node):
        if OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if wanted := out_of_range(config, name, value):
            raise UserError(f"{where}{name}={value}: must be {wanted}")
        _check_below(value, f"{where}{name}")


def _check_below(value: object, where: str) -> None:
    if isinstance(value, DictConfig) and is_dataclass(kind := OmegaConf.get_type(value)):
        check_ranges(kind, value, f"{where}.")
    elif isinstance(value, DictConfig):
        for key in (key for key in value if not OmegaConf.is_missing(value, key)):
            _check_below(value[key], f"{where}.{key!s}")
    elif isinstance(value, ListConfig):
        for place in (place for place in range(len(value)) if not OmegaConf.is_missing(value, place)):
            _check_below(value[place], f"{where}[{place}]")


@runtime_checkable
class Conflicting(Protocol):
    """A ``Config`` whose fields may not go together; in any group."""

    def conflict(self) -> str | None:
        """What does not fit and how to mend it, from the key on; None if all fits."""
        ...


def check_conflict(group: str, declared: type[Any], node: DictConfig) -> None:
    """Refuse settings of one option that its own ``Config`` says do not go together.

    Raises:
        UserError: as that says; or if a plugin's Config fails.
    """
    if not issubclass(declared, Conflicting):
        return
    try:
        values = {str(k): v for k, v in node.items() if k != "_target_"}
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(declared), values))
        told = typed.conflict()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's may do anything
        raise UserError(f"{group}: conflict of its Config fails with {one_line(error)}; mend it") from error
    if told:
        raise UserError(f"{group}.{told}")


def check_fit(cfg: DictConfig, algorithm: type[Any]) -> None:
    """Refuse settings of different groups that cannot go together.

    Raises:
        UserError: naming the keys and the mend.
    """
    for split in cfg.evaluation.splits:
        if split not in SPLITS:
            raise UserError(f"evaluation.splits: there is no split {split!r}; {nearest(str(split), SPLITS)}")
    if len(set(cfg.evaluation.splits)) < len(cfg.evaluation.splits):
        raise UserError(f"evaluation.splits={list(cfg.evaluation.splits)}: names a split twice; name each once")
    if not cfg.evaluation.splits:
        raise UserError(f"evaluation.splits: is empty; give some of {', '.join(SPLITS)}")
    samples, pairs = cfg.candidates.samples_per_prompt, cfg.candidates.pairs_per_prompt
    possible = samples * (samples - 1) // 2
    if pairs > possible:
        raise UserError(
            f"candidates.pairs_per_prompt={pairs}: {samples} samples a prompt make {possible} "
            f"{'pair' if possible == 1 else 'pairs'}; ask for fewer, or raise candidates.samples_per_prompt"
        )
    ranks, accumulate = int(cfg.strategy.get("devices", 1)), int(cfg.strategy.get("accumulate", 1))
    typed, told, rows = _settings(algorithm, cfg.algorithm)
    if told:
        raise UserError(f"algorithm.{told}")
    if isinstance(typed, OnPolicyConfig):
        _check_on_policy(cfg, rows, ranks, accumulate)
    if issubclass(algorithm, PreferenceConfig):
        _check_pairs(cfg)
        if cfg.algorithm.pairs_per_step % (ranks * accumulate):
            raise UserError(
                f"algorithm.pairs_per_step={cfg.algorithm.pairs_per_step}: must be a multiple of strategy.devices × "
                f"strategy.accumulate ({ranks} × {accumulate})"
            )


def check_secrets(cfg: DictConfig) -> None:
    """Refuse a key or a password among the settings, which stand in records, in the store and in trackers.

    Raises:
        UserError: naming the key of the setting, and not its value.
    """
    refuse_secrets(OmegaConf.to_container(cfg, resolve=True))


def refuse_secrets(settings: Any) -> None:
    """The same of settings as plain data.

    Raises:
        UserError: naming the key of the setting, and not its value.
    """
    for name in secret_settings(settings):
        raise UserError(
            f"{name}: holds a key or a password, and settings are kept in records; put it into an environment "
            "variable, which the part that needs it reads by itself"
        )


def check_audit(cfg: DictConfig) -> None:
    """Refuse an audit of so few pairs that its figures are not defined.

    Raises:
        UserError: naming the key.
    """
    if 0 < (pairs := cfg.audit.pairs) < LEAST_AUDITED:
        raise UserError(f"audit.pairs={pairs}: tells nothing; ask for {LEAST_AUDITED} at least, or 0 to audit nothing")


def check_filled(cfg: DictConfig, chosen: Mapping[str, tuple[str, str]]) -> None:
    """Refuse to empty a list that sets an option apart from the one that it starts from, as principles a constitution.

    Args:
        cfg: the configuration.
        chosen: group and name of the option at each place.

    Raises:
        UserError: naming the key and the mend.
    """
    for place, (group, name) in chosen.items():
        base, own = set_apart(group, name)
        for key, value in own.items() if base else ():
            if isinstance(value, list) and value and cfg[place].get(key) == []:
                raise UserError(
                    f"{place}.{key}=[]: without any {place}={name} is {place}={base}; give at least one, or choose "
                    f"{place}={base}"
                )


def check_names(cfg: DictConfig) -> None:
    """Refuse names of study and arm that would be no folder of their own under ``runs/``.

    Raises:
        UserError: naming the key.
    """
    for key in ("study", "arm"):
        name = str(cfg[key])
        if not name.strip() or name in (".", "..") or "/" in name or "\0" in name:
            raise UserError(f"{key}={name!r}: is the name of a folder; give one without a slash, and not empty")


def train_prompts(cfg: DictConfig) -> int | None:
    """Training questions, as far as the settings alone tell."""
    known = "train_prompts" in cfg.task and cfg.task.get("prompt_file") is None
    return int(cfg.task.train_prompts) if known else None


def _check_on_policy(cfg: DictConfig, rows: int, ranks: int, accumulate: int) -> None:
    chosen, there = cfg.algorithm, train_prompts(cfg)
    if there is not None and chosen.prompts_per_iteration > there:
        raise UserError(
            f"algorithm.prompts_per_iteration={chosen.prompts_per_iteration}: there are {there} training questions "
            "(task.train_prompts); ask for at most as many, or raise algorithm.samples_per_prompt"
        )
    rollouts = chosen.prompts_per_iteration * chosen.samples_per_prompt
    if (horizon := chosen.get("kl_horizon")) is not None and horizon < rollouts:
        raise UserError(
            f"algorithm.kl_horizon={horizon}: must be at least the {rollouts} rollouts of an iteration, or the "
            "controller overshoots; raise it"
        )
    if chosen.prompts_per_iteration % ranks:
        raise UserError(
            f"algorithm.prompts_per_iteration={chosen.prompts_per_iteration}: must be a multiple of "
            f"strategy.devices ({ranks})"
        )
    parts = chosen.minibatches * accumulate * ranks
    if rollouts % parts:
        raise UserError(
            f"algorithm.minibatches={chosen.minibatches}: {rollouts} rollouts (prompts_per_iteration × "
            f"samples_per_prompt) do not divide into {chosen.minibatches} minibatches × {accumulate} microbatches "
            f"(strategy.accumulate) × {ranks} processes (strategy.devices); change one of them"
        )
    if rows % parts:
        raise UserError(
            f"algorithm.minibatches={chosen.minibatches}: the {rows} rows that {chosen.name} learns from "
            f"in an iteration do not divide into {chosen.minibatches} minibatches × {accumulate} microbatches "
            f"(strategy.accumulate) × {ranks} processes (strategy.devices); change one of them"
        )


def _settings(algorithm: type[Any], node: DictConfig) -> tuple[Any, str | None, int]:
    """An algorithm's settings as its own Config, what conflicts in them, and the rows that it learns from.

    Raises:
        UserError: if the Config fails: a plugin's may do anything.
    """
    values = {str(k): v for k, v in node.items() if k != "_target_"}
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(algorithm), values))
        return typed, typed.conflict(), int(typed.batch_rows) if isinstance(typed, OnPolicyConfig) else 0
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UserError(
            f"algorithm={values.get('name')}: its Config, or batch_rows there, fails with {one_line(error)}; mend it"
        ) from error


def _check_pairs(cfg: DictConfig) -> None:
    there = train_prompts(cfg)
    if there is None:
        return
    most, wanted = there * cfg.candidates.pairs_per_prompt, cfg.algorithm.pairs_per_step
    if wanted > most:
        raise UserError(
            f"algorithm.pairs_per_step={wanted}: at most {most} pairs are labelled (task.train_prompts × "
            "candidates.pairs_per_prompt); ask for fewer a step, or raise one of the two"
        )
