"""What is checked, and how a check becomes a row of the table. Dimensions: ``B`` rows, ``R`` tokens."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.algorithms.checked import ContractError, place
from rft.models.backbone import Role
from rft.testing.result import CheckResult
from rft.testing.world import World
from rft.types import Sequences

SAME = 1e-5  # largest relative difference of two gradients that should be the same
NUDGE = 0.1  # how far from its start the policy is where a gradient must not be special


@dataclass(frozen=True, slots=True)
class Subject:
    """An algorithm under some settings."""

    algorithm: type[Algorithm]
    config: Any
    settings: str = ""

    def world(self, nudge: float = 0.0, dtype: torch.dtype = torch.float64) -> World:
        """A fresh world with the algorithm in it."""
        return World(self.algorithm, self.config, nudge=nudge, dtype=dtype)

    @property
    def prepares(self) -> str:
        """Where it assigns credit, or its loss if it does not."""
        if self.algorithm.data_kind == "on_policy":
            return self.at("prepare")
        return self.at("loss" if self.algorithm.prepare_step is Algorithm.prepare_step else "prepare_step")

    @property
    def loses(self) -> str:
        """Where its loss is."""
        return self.at("loss")

    @property
    def learns(self) -> str:
        """Where it assigns credit, and its loss."""
        return self.at("prepare", "loss") if self.algorithm.data_kind == "on_policy" else self.prepares

    def at(self, *names: str) -> str:
        """The lines of some methods, of what the class itself defines before what it inherits.

        A method that is inherited, but calls methods that a class below overrides, is told by those.
        """
        found = sorted((_own_way(self.algorithm, name) for name in names), key=lambda depth_places: depth_places[0])
        return ", ".join(dict.fromkeys(where for _, places in found for where in places))


def _own_way(algorithm: type[Algorithm], name: str) -> tuple[int, list[str]]:
    """Where a method was last changed: how many classes above the algorithm, and the places there."""
    classes = algorithm.__mro__[: algorithm.__mro__.index(Algorithm)]
    reached = [name]
    for method in reached:  # grows while it is walked
        called = {n for c in classes if method in vars(c) for n in _names(vars(c)[method])}
        reached += [n for n in sorted(called) if n not in reached and any(_code(vars(c).get(n)) for c in classes)]
    for depth, c in enumerate(classes):
        own = [n for n in reached if _code(vars(c).get(n))]
        if own:
            return depth, [place(_function(vars(c)[n])) for n in (own[:1] if own[0] == name else own)]
    return len(classes), [place(getattr(Algorithm, name))]


def _function(member: Any) -> Any:
    """What stands behind a property, a class method or a decorator."""
    member = member.fget if isinstance(member, property) else member
    return inspect.unwrap(getattr(member, "__func__", member))


def _code(member: Any) -> CodeType | None:
    function = _function(member)
    return function.__code__ if inspect.isfunction(function) else None


def _names(member: Any) -> set[str]:
    """Every name that a function uses, those of its comprehensions and inner functions included."""
    names, codes = set[str](), [_code(member)]
    for code in codes:
        if code is not None:
            names |= {*code.co_names}
            codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    return names


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found: whether it holds, what was measured, where to look."""

    ok: bool
    detail: str
    where: str = ""


Check = Callable[[Subject], Found]


class NotApplicableError(Exception):
    """The check says nothing about this algorithm; the message says why."""


def trains(subject: Subject) -> None:
    """Do nothing if it trains something.

    Raises:
        NotApplicableError: if it does not.
    """
    if subject.algorithm.data_kind == "none":
        raise NotApplicableError("it trains nothing")


def run_check(name: str, check: Check, subject: Subject) -> CheckResult:
    """One row of the table; an exception of the algorithm is a failure at its line."""
    try:
        found = check(subject)
    except NotApplicableError as reason:
        return CheckResult(name, None, str(reason), settings=subject.settings)
    except ContractError as error:
        where, _, told = str(error).partition(": ")
        return CheckResult(name, False, told, where, subject.settings)
    except Exception as error:  # whatever a stranger's code raises is what the row is about
        told = f"{type(error).__name__}: {error}"
        return CheckResult(name, False, told, _raised_at(error, subject), subject.settings)
    return CheckResult(name, found.ok, found.detail, "" if found.ok else found.where, subject.settings)


def _raised_at(error: BaseException, subject: Subject) -> str:
    """The last line of the algorithm's own file that the exception passed, else its loss."""
    own = sys.modules[subject.algorithm.__module__].__file__
    where, trace = subject.loses, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == own:
            where = f"{own}:{trace.tb_lineno} {trace.tb_frame.f_code.co_qualname}"
        trace = trace.tb_next
    return where


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of ``backbone.logprobs`` for the policy."""

    sequences: Sequences
    result: Tensor  # [B, R]
    where: str


@contextmanager
def watched(world: World) -> Iterator[list[Asked]]:
    """The policy's log-probs that the algorithm asks for while this is open."""
    calls: list[Asked] = []
    backbone, original = world.backbone, world.backbone.logprobs

    def logprobs(role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        result = original(role, seq, temperature)
        if role is Role.policy:
            frame = sys._getframe(1)
            at = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
            calls.append(Asked(seq, result.detach(), at))
        return result

    vars(backbone)["logprobs"] = logprobs  # before the method of the class
    try:
        yield calls
    finally:
        del vars(backbone)["logprobs"]
