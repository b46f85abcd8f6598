"""What is checked, and how a check becomes a row of the table. Dimensions: ``B`` rows, ``R`` tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.algorithms.contract import ContractError, place
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
        own = self.algorithm.prepare if self.algorithm.data_kind == "on_policy" else self.algorithm.prepare_step
        return place(own) if own is not Algorithm.prepare_step else place(self.algorithm.loss)

    @property
    def loses(self) -> str:
        """Where its loss is."""
        return place(self.algorithm.loss)


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
