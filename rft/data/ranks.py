"""What the processes of a distributed trial tell one another; without one, each function gives back what it got."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _spread() -> torch.device | None:
    """Where tensors must be that the ranks exchange; None in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def all_sum(values: Sequence[float]) -> list[float]:
    """Sums over all ranks."""
    total = torch.tensor(list(values), dtype=torch.float64, device=_spread())
    if _spread() is not None:
        torch.distributed.all_reduce(total)
    return [float(x) for x in total]


def all_max(value: int) -> int:
    """The largest value of all ranks."""
    largest = torch.tensor(value, device=_spread())
    if _spread() is not None:
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def all_rows(data: T, world: int) -> T:
    """A frozen dataclass with the rows of all ranks, in their order; every tensor in it has the same shape on each."""
    if world == 1:
        return data

    def whole(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return all_rows(value, world)
        if not isinstance(value, Tensor):
            return value
        parts = [torch.empty_like(value) for _ in range(world)]
        torch.distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    fields = {f.name: whole(getattr(data, f.name)) for f in dataclasses.fields(data)}  # type: ignore[arg-type]
    return replace(data, **fields)  # type: ignore[type-var]
