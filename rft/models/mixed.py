"""Weights that are trained in float32 and multiplied in a shorter type.

Micikevicius et al. 2018 (arXiv 1710.03740), section 3.1: a step is smaller than what a 16-bit weight can tell from
itself, so the optimiser has a float32 master of each weight. Gradients are made in the shorter type and added up in
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rft.models.changed import state_of

_NEVER = -1, -1  # the state that no parameter is in
ADDED_AT_ONCE = 1 << 17
"""Entries of a gradient, whose float32 copies stay in the processor's cache."""


class _Shorter(torch.autograd.Function):
    """A parameter's copy in a shorter type, whose gradient becomes the parameter's.

    It is added to what an earlier microbatch has left there, a piece at a time, as the engine would add it with a pass
    over memory more. Where other processes wait for the gradient, the engine has to do it.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, copy: Tensor) -> Tensor:
        ctx.parameter = parameter
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        total, grad = ctx.parameter.grad, grads[0]
        told = dist.is_available() and dist.is_initialized()
        if total is None or told or total.device.type != "cpu" or not grad.ndim:
            return grad.float(), None
        rows = max(1, ADDED_AT_ONCE // max(1, grad[:1].numel()))
        for part, more in zip(total.split(rows), grad.split(rows), strict=True):
            part.add_(more)
        return None, None


class ShorterWeights:
    """The copies of a module's float32 parameters in a shorter type, made again when a parameter has changed.

    Args:
        module: whose parameters stay as they are for whoever trains, saves or loads them.
        dtype: of the copies.
        memory: a module of the same parameters, which nothing reads any more: the copies are written over those of
            that type.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, memory: nn.Module | None = None) -> None:
        self._dtype = dtype
        # A parameter may have several places, as the embedding that is the projection too.
        self._places = [
            (owner._parameters, name)
            for owner in module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        self._copies: dict[nn.Parameter, tuple[Tensor, tuple[int, int]]] = {}
        if memory is not None:
            pairs = zip(module.parameters(), memory.parameters(), strict=True)
            self._copies = {p: (spent.data, _NEVER) for p, spent in pairs if spent.dtype is dtype}

    def _copy(self, parameter: nn.Parameter) -> Tensor:
        """The copy, of the weights as they are now."""
        copy, state = self._copies.get(parameter, (None, None))
        now = state_of([parameter])
        if copy is None or copy.device != parameter.device:
            copy = parameter.detach().to(self._dtype)
        elif state != now:
            copy.copy_(parameter.detach())
        self._copies[parameter] = copy, now
        return copy

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the module computes with the copies; gradients reach its parameters."""
        parameters = [at[name] for at, name in self._places]
        made: dict[Any, Any] = {p: _Shorter.apply(p, self._copy(p)) for p in parameters}  # type: ignore[no-untyped-call, arg-type]
        try:
            for (at, name), parameter in zip(self._places, parameters, strict=True):
                at[name] = made[parameter]
            yield
        finally:
            for (at, name), parameter in zip(self._places, parameters, strict=True):
                at[name] = parameter
