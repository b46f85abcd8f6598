"""What an algorithm gives back of an optimiser step is checked: its rows, what the loss is a mean over, the loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rft.algorithms.checked import ContractError, came
from rft.types import LossOutput


def check_step(given: Any, back: Any, where: str) -> None:
    """Refuse other rows than an optimiser step has.

    Raises:
        ContractError: naming what came back.
    """
    if type(back) is not type(given) or len(back) != len(given):
        came = f"a {type(back).__name__}" + (f" of {len(back)} rows" if hasattr(back, "__len__") else "")
        raise ContractError(f"{where}: gave {came}; wanted the {type(given).__name__} of {len(given)} rows that it got")


def check_count(count: Any, where: str) -> int:
    """Refuse anything but a whole number that is not below 0.

    Raises:
        ContractError: naming what came.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        given = came(count) if isinstance(count, Tensor) else f"{type(count).__name__} {count!r}"
        raise ContractError(
            f"{where}: gave {given}; wanted a whole number (int), at least 0: what the loss is a mean over"
        )
    return count


def check_loss(out: Any, where: str) -> LossOutput:
    """Refuse a loss that is no scalar or that nothing can learn from, and metrics that are no scalars.

    Raises:
        ContractError: naming what came.
    """
    if not isinstance(out, LossOutput):
        raise ContractError(f"{where}: gave a {type(out).__name__}; wanted LossOutput(loss, metrics)")
    loss: Any = out.loss
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        raise ContractError(
            f"{where}: loss is {came(loss)}; wanted one floating number []: reduce it over the counted tokens"
        )
    if not loss.requires_grad:
        raise ContractError(
            f"{where}: loss has no gradient; wanted one that depends on backbone.logprobs(Role.policy, …) of this call"
        )
    value: Any
    for name, value in out.metrics.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ContractError(f"{where}: metric {name!r} is {came(value)}; wanted a tensor of one number")
    return out
