"""Passes that are made before the loss that wants them, with their graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rft.models.changed import state_of
from rft.types import Sequences


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
