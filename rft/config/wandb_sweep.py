"""The overrides of a sweep as a sweep of Weights & Biases, whose agent calls ``rft run`` with one value of each.

The agent writes ``key=value`` with Python's ``str`` and passes it as one argument, without a shell. So what stands in
the file has to be, as text, a value in Hydra's grammar: numbers stand as numbers, which W&B can draw between and plot,
and all else, lists and strings that need quotes too, as the text that Hydra reads.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig

from rft.config.build import split_target
from rft.config.compose import compose
from rft.config.extract import config_class
from rft.config.options import options
from rft.config.overrides import with_nobody, written
from rft.config.schemas import SPLITS
from rft.config.search import Range, Search, search_space
from rft.errors import UserError, nearest

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""What W&B takes for the name of a parameter."""
WHOLE = 2**53
"""Integers beyond it do not survive JSON everywhere."""
RUN = ("${env}", "python", "-m", "rft", "run")
ARGUMENTS = "${args_no_hyphens}"
BY = "eval/validation/gold"
"""What settings are searched by if nothing is said: never by the questions of the final test."""


class Method(str, Enum):
    """Who chooses the next values: W&B's controller goes through all, draws them, or learns from those before."""

    grid = "grid"
    random = "random"
    bayes = "bayes"


class Goal(str, Enum):
    """What the controller wants of the metric."""

    maximize = "maximize"
    minimize = "minimize"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for beside the overrides."""

    method: Method | None = None
    """grid if not given, and random if there is something that only can be drawn."""
    metric: str | None = None
    """BY if not given, and none for a grid."""
    goal: Goal = Goal.maximize
    cap: int | None = None
    """Runs at most."""
    search: bool = False
    """Whether the ranges that the algorithm declares are searched too."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter."""

    spec: Mapping[str, Any]
    """As W&B has it."""
    texts: tuple[str, ...]
    """All its values as overrides have them, or the ends of its range."""
    drawn: bool = False
    """Whether it is drawn from a range."""


@dataclass(frozen=True, slots=True)
class WandbSweep:
    """A sweep."""

    document: Mapping[str, Any]
    """What its YAML holds."""
    probes: Sequence[Sequence[str]]
    """The overrides of runs that it may start: all choices, with the ends of what is drawn."""


def wandb_sweep(overrides: Sequence[str], wanted: Wanted) -> WandbSweep:
    """A sweep over every override that has several values; the others are the same in all runs.

    Args:
        overrides: as for ``rft run -m``; and ``interval(low, high)``, ``int(interval(…))`` and
            ``tag(log, interval(…))``, of which numbers are drawn.
        wanted: what is asked for beside them.

    Raises:
        UserError: for what is no override or cannot be swept by W&B, and what does not fit together.
    """
    parsed = _parsed(with_nobody(overrides))
    fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
    axes = _axes([one for one in parsed if one.is_sweep_override()])
    set_by = {one.key_or_group for one in parsed}
    if not set_by & {"tracker", "tracker.mode"}:
        fixed += ["tracker=wandb", "tracker.mode=online"]  # else the controller hears nothing
    cfg = compose([*fixed, *(f"{key}={axis.texts[0]}" for key, axis in axes.items())])
    if wanted.search:
        axes |= _searched(cfg, set_by, axes)
    if not axes:
        raise UserError("wandb-sweep: nothing has several values; write key=a,b or add --search")
    method = _method(wanted.method, axes)
    metric = wanted.metric or (None if method is Method.grid else BY)
    if metric is not None:
        fixed += _splits(metric, cfg, "evaluation.splits" in set_by)
    document = {
        "program": "rft",
        "name": str(cfg.study),
        **{key: cfg.tracker[key] for key in ("project", "entity") if cfg.tracker.get(key)},
        "method": method.value,
        **({"metric": {"name": metric, "goal": wanted.goal.value}} if metric else {}),
        **({"run_cap": wanted.cap} if wanted.cap else {}),
        "command": [*RUN, *fixed, ARGUMENTS],
        "parameters": {key: dict(axis.spec) for key, axis in axes.items()},
    }
    return WandbSweep(document, [[*fixed, *values] for values in _probes(axes)])


def _parsed(overrides: Sequence[str]) -> list[Override]:
    found, parser = [], OverridesParser.create()
    for text in overrides:
        try:
            found.append(parser.parse_override(text))
        except HydraException as error:
            raise UserError(f"{text}: is no override; write overrides as key=value") from error
        if found[-1].is_hydra_override():
            raise UserError(
                f"{text}: is for sweeps that rft runs itself; the agent runs one trial at a time, leave it out"
            )
    return found


def _axes(swept: Sequence[Override]) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    for one in swept:
        key = one.get_key_element()
        if not NAME.fullmatch(key):
            raise UserError(
                f"{key}: W&B takes no such name of a parameter; give one value, or write it without {key[0]}"
            )
        if key in axes:
            raise UserError(f"{key}: is given twice; give all values at once")
        axes[key] = _axis(key, one)
    return axes


def _axis(key: str, swept: Override) -> Axis:
    value: Any = swept.value()  # of one kind more than Hydra declares
    if isinstance(value, IntervalSweep):
        low, high = ends = cast(tuple[float, float], (value.start, value.end))
        whole = all(isinstance(end, int) for end in ends)
        try:
            return _of_search(Range(low, high, log="log" in value.tags, whole=whole))
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error
    if isinstance(value, Glob):
        elements: list[Any] = value.filter([option.name for option in options() if option.group == key])
    else:
        elements = list(swept.sweep_iterator())
    if not elements:
        raise UserError(f"{swept.input_line}: holds no value; give one or more")
    texts = tuple(Transformer.str(one) for one in elements)
    return Axis({"values": [_plain(one, text) for one, text in zip(elements, texts, strict=True)]}, texts)


def _plain(element: Any, text: str) -> Any:
    """A number as it is, all else as text."""
    number = isinstance(element, bool | int | float) and math.isfinite(element) and abs(element) <= WHOLE
    return element if number else text


def _of_search(search: Search) -> Axis:
    if not isinstance(search, Range):
        texts = tuple(map(written, search.values))
        return Axis({"values": [_plain(one, text) for one, text in zip(search.values, texts, strict=True)]}, texts)
    low, high = search.ends
    kinds: dict[tuple[bool, bool], dict[str, Any]] = {
        (False, False): {"distribution": "uniform"},
        (False, True): {"distribution": "log_uniform_values"},
        (True, False): {"distribution": "int_uniform"},
        (True, True): {"distribution": "q_log_uniform_values", "q": 1},
    }
    spec = kinds[search.whole, search.log] | {"min": low, "max": high}
    return Axis(spec, (written(low), written(high)), drawn=True)


def _searched(cfg: DictConfig, set_by: set[str], axes: Mapping[str, Axis]) -> dict[str, Axis]:
    """The search ranges of the algorithm, but for what an override sets."""
    if "algorithm" in axes:
        raise UserError(
            "--search: the algorithm itself is swept, and algorithms declare different ranges; write a sweep for each"
        )
    space = search_space(config_class(split_target(str(cfg.algorithm["_target_"]))[0]))
    free = {f"algorithm.{key}": search for key, search in space.items() if f"algorithm.{key}" not in set_by}
    if not free:
        why = "its overrides fix all that it declares" if space else "it declares no search range"
        raise UserError(f"--search: algorithm={cfg.algorithm.name}: {why}; leave --search out")
    return {key: _of_search(search) for key, search in free.items()}


def _method(given: Method | None, axes: Mapping[str, Axis]) -> Method:
    drawn = [key for key, axis in axes.items() if axis.drawn]
    if given is Method.grid and drawn:
        raise UserError(f"--method grid: {drawn[0]} is a range, which has no end; give its values, or --method random")
    return given or (Method.random if drawn else Method.grid)


def _splits(metric: str, cfg: DictConfig, given: bool) -> list[str]:
    """The override that lets the trials of a sweep have the metric that they are judged by."""
    named = re.fullmatch(r"eval/([^/]+)/.+", metric)
    if named is None or named[1] in cfg.evaluation.splits:
        return []
    if named[1] not in SPLITS:
        raise UserError(f"--metric {metric}: there is no split {named[1]}; {nearest(named[1], SPLITS)}")
    if given:
        raise UserError(
            f"--metric {metric}: evaluation.splits={list(cfg.evaluation.splits)} leaves that split out; add it"
        )
    return [f"evaluation.splits=[{named[1]}]"]


def _probes(axes: Mapping[str, Axis]) -> list[list[str]]:
    """Overrides of runs: the product of all choices but that of seeds, with all low ends and with all high ends."""
    choices = [
        [f"{key}={text}" for text in (axis.texts[:1] if key == "seed" else axis.texts)]
        for key, axis in axes.items()
        if not axis.drawn
    ]
    drawn = {key: axis.texts for key, axis in axes.items() if axis.drawn}
    ends = [[f"{key}={texts[end]}" for key, texts in drawn.items()] for end in (0, -1)] if drawn else [[]]
    return [[*chosen, *end] for chosen in itertools.product(*choices) for end in ends]
