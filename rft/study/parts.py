"""Parts of a study that may come from any package: their classes, what these declare, and their stages' addresses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from rft.config.build import target_class, to_config
from rft.config.declared import declared
from rft.config.options import option_like
from rft.config.plugins import class_digest, is_ours
from rft.config.schemas import REQUIRES
from rft.errors import UserError

BASES: Mapping[str, str] = {
    "reward": "rft.rewards.base.Reward",
    "judge": "rft.feedback.judges.base.Judge",
    "eval_judge": "rft.feedback.judges.base.Judge",
    "feedback": "rft.feedback.base.Feedback",
    "task": "rft.tasks.base.Task",
    "start": "rft.study.start.Start",
}


def plain(node: Any) -> Any:
    """A config node as JSON-able data."""
    return OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True, enum_to_str=True)


def settings_of(node: DictConfig) -> dict[str, Any]:
    """An option's settings with its class, and with the code of a plugin: what a stage's address takes from it."""
    found = plain(node)
    code = class_digest(target_class(node), str(found["_target_"]))
    kept = {k: v for k, v in found.items() if k != "name" and not k.startswith(REQUIRES)}
    return kept if code is None else kept | {"code": code}


def part_class(group: str, node: DictConfig | Mapping[str, Any]) -> Any:
    """The class of a group's option, which must extend the group's base class and need only what can be given.

    Raises:
        UserError: naming the class and what is wrong with it.
    """
    found: Any = target_class(node)
    if group == "algorithm":
        from rft.algorithms.declared import check_declared

        check_declared(found, str(node["_target_"]))
        return found
    base = target_class({"_target_": BASES[group]})
    name = node["_target_"]
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UserError(f"{group}: {name} does not extend {BASES[group]}; derive the class from it")
    if missing := getattr(found, "__abstractmethods__", None):
        raise UserError(f"{group}: {name} does not define {', '.join(sorted(missing))}; see {BASES[group]}")
    if group == "task" and "response_tokens" not in node:
        raise UserError(
            f"task: the Config of {name} has no field response_tokens; add it (the longest response, EOS included)"
        )
    if hasattr(base, "needs"):
        known = _known_needs(base)
        declared: Any = found
        if unknown := sorted(set(declared.needs) - known):
            raise UserError(
                f"{group}: {name} needs {', '.join(unknown)}; what can be needed is {', '.join(sorted(known))}"
            )
    return found


def refuse_misfits(cfg: DictConfig) -> None:
    """What `require_scoring_judge` and `require_separate_labels` refuse, where nothing heavy is imported to tell.

    Of another package no module is imported: its parts are told once the trial starts.

    Raises:
        UserError: naming the options and the mend.
    """
    if all(is_ours(str(cfg[group]["_target_"])) for group in ("reward", "judge", "feedback", "algorithm")):
        require_scoring_judge(cfg)
        require_separate_labels(cfg)


def require_scoring_judge(cfg: DictConfig, where: str = "") -> None:
    """Refuse a judge that scores no answer by itself where the reward is its score.

    It is told from the judge's settings alone, before anything is loaded for it.

    Args:
        cfg: the configuration of a trial.
        where: what stands before what is said.

    Raises:
        UserError: naming the judge and the mend.
    """
    if "judge" not in _declared(cfg, "reward", "needs"):
        return
    if not part_class("judge", cfg.judge).scores_alone(to_config(cfg.judge)):
        chosen = cfg.algorithm.get(f"{REQUIRES}reward")
        whose = f"reward={_option(cfg, 'reward')}" if chosen is None else f"algorithm={cfg.algorithm.name}"
        raise UserError(
            f"{where}judge={_option(cfg, 'judge')}: compares answers as it is set and scores none by itself, but its "
            f"score is the reward ({whose}); set judge.form=pointwise, or choose a judge that scores, such as "
            "judge=few_shot"
        )


def require_separate_labels(cfg: DictConfig, where: str = "") -> None:
    """Refuse a feedback source whose labels depend on what else is asked where it labels fresh responses in training.

    They come in parts, by the limits of the budget and the number of processes, which must not decide what is learned.

    Args:
        cfg: the configuration of a trial.
        where: what stands before what is said.

    Raises:
        UserError: naming the source and the mend.
    """
    if "feedback" in _declared(cfg, "algorithm", "needs") and _declared(cfg, "feedback", "by_comparison"):
        raise UserError(
            f"{where}feedback={_option(cfg, 'feedback')}: a label depends on which pairs are labelled with it, and the "
            f"fresh ones of algorithm={cfg.algorithm.name} come in parts; choose feedback=ai or feedback=simulated, or "
            "an algorithm that learns from the labels of the stage, such as algorithm=dpo"
        )


def _declared(cfg: DictConfig, group: str, name: str) -> Any:
    """A constant of the class of a group's option, which is imported only if its source does not tell."""
    target = str(cfg[group]["_target_"])
    return declared(target, name) if is_ours(target) else getattr(part_class(group, cfg[group]), name)


def _option(cfg: DictConfig, group: str) -> str:
    """A group's option as it is typed; its class if it is none."""
    return option_like(group, plain(cfg[group])) or str(cfg[group]["_target_"])


def _known_needs(base: type[Any]) -> set[str]:
    """The names in the annotation ``ClassVar[frozenset[Literal[…]]]`` of a base class's `needs`."""
    hint = get_type_hints(base)["needs"]
    while get_args(hint) and not isinstance(get_args(hint)[0], str):
        hint = get_args(hint)[0]
    return set(get_args(hint))


def version_of(found: type[Any]) -> dict[str, int]:
    """What a part's own `version` adds to an address; the first version adds nothing."""
    version = int(getattr(found, "version", 1))
    return {} if version == 1 else {"_version_": version}
