"""Passes that more than one reader wants, with their graphs: the loss after the rollout, the values after log-probs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rft.models.changed import state_of
from rft.types import Sequences

T = TypeVar("T")


class Ahead:
    """Results that a loss takes with their graphs instead of making them again, for the same rows and weights.

    Args:
        parameters: what the results depend on.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._open = False
        self._kept: dict[str, tuple[Sequences, tuple[int, int], Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Ahead:
        """Nothing kept: a graph has no copy."""
        return Ahead(copy.deepcopy(self._parameters, memo))

    @contextmanager
    def before_loss(self) -> Iterator[None]:
        """While open, results are kept."""
        self._open = True
        try:
            with torch.enable_grad():
                yield
        finally:
            self._open = False

    def once(self, name: str, seq: Sequences, make: Callable[[], Tensor]) -> Tensor:
        """What was kept under a name, which is given away; else what is made."""
        weights = state_of(self._parameters)
        if self._open:
            made = make()
            self._kept[name] = seq, weights, made
            return made
        kept = self._kept.pop(name, None) if torch.is_grad_enabled() else None
        if kept is None or kept[1] != weights or not kept[0].same_tokens(seq):
            return make()
        return kept[2]


class Latest:
    """The latest pass, for other readers of the same rows and weights.

    Each reader has it once: who asks again has been through a backward, which a graph survives only once.

    Args:
        parameters: what a pass depends on.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._kept: tuple[Sequences, Any, Any] | None = None
        self._readers: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Latest:
        """Nothing kept: a graph has no copy."""
        return Latest(copy.deepcopy(self._parameters, memo))

    def read(self, reader: str, seq: Sequences, make: Callable[[], T]) -> T:
        """What the latest pass gave if it will do, else what is made."""
        state = state_of(self._parameters), torch.is_grad_enabled()
        kept = self._kept
        if kept is None or reader in self._readers or kept[1] != state or not kept[0].same_tokens(seq):
            self._readers.clear()
            kept = self._kept = seq, state, make()
        self._readers.add(reader)
        found: T = kept[2]
        return found
