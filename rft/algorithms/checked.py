"""What every check of an algorithm needs: what came, where it was handed over, and tensors and texts that are whole.

Dimensions: ``B`` rows, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rft.types import Sequences


class ContractError(TypeError):
    """An algorithm handed over what nothing can be done with."""


def place(function: Callable[..., Any]) -> str:
    """``file:line Class.method`` of a function."""
    code = inspect.unwrap(getattr(function, "__func__", function)).__code__
    return f"{code.co_filename}:{code.co_firstlineno} {function.__qualname__}"


def came(x: Any) -> str:
    """Type and shape of a tensor, the class of anything else."""
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def check_tensor(name: str, x: Any, shape: tuple[int, ...], dtype: str, where: str, letters: str) -> None:
    """Refuse anything but a tensor of a shape and a kind of type, without a gradient, all finite."""
    wanted = f"wanted a {dtype} tensor [{letters}] = {list(shape)}"
    if not isinstance(x, Tensor):
        raise ContractError(f"{where}: {name} is a {type(x).__name__}; {wanted}")
    right_type = x.dtype == torch.bool if dtype == "bool" else x.is_floating_point()
    if tuple(x.shape) != shape or not right_type:
        raise ContractError(f"{where}: {name} is {came(x)}; {wanted}")
    if x.requires_grad:
        raise ContractError(f"{where}: {name} carries a gradient; {wanted} without one: detach it")
    if not bool(torch.isfinite(x).all()):
        raise ContractError(f"{where}: {name} has NaN or infinite entries; {wanted} of finite numbers")


def check_sequences(seq: Any, where: str, name: str) -> None:
    """Refuse ids that are no int64 [B, P] and [B, R], masks that are no bool of their shapes, rows that do not match.

    Raises:
        ContractError: naming the field.
    """
    if not isinstance(seq, Sequences):
        raise ContractError(f"{where}: {name} is a {type(seq).__name__}; wanted Sequences, such as the rollouts have")
    parts = (("prompt", seq.prompt_ids, seq.prompt_mask, "P"), ("response", seq.response_ids, seq.response_mask, "R"))
    ids: Any
    mask: Any
    for part, ids, mask, letter in parts:
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 2:
            raise ContractError(f"{where}: {name}.{part}_ids is {came(ids)}; wanted int64 [B, {letter}]")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ids.shape:
            raise ContractError(
                f"{where}: {name}.{part}_mask is {came(mask)}; wanted bool [B, {letter}] = {list(ids.shape)}, as "
                f"{part}_ids has it"
            )
    rows, columns = len(seq.prompt_ids), seq.prompt_ids.shape[1] + seq.response_ids.shape[1]
    if len(seq.response_ids) != rows:
        raise ContractError(f"{where}: {name} has {rows} prompts and {len(seq.response_ids)} responses; wanted as many")
    if seq.trunk is not None and seq.trunk.shape[:2] != (rows, columns):
        raise ContractError(
            f"{where}: {name}.trunk is {came(seq.trunk)}; wanted [B, P + R, …] = [{rows}, {columns}, …]: tokens that "
            "change need trunk=None"
        )


def check_mask(seq: Sequences, eos_id: int, where: str, name: str) -> None:
    """Refuse prompts that are not padded on the left, and masks that count what follows the end of a response.

    Raises:
        ContractError: naming the place.
    """
    right = seq.prompt_mask[:, :-1] & ~seq.prompt_mask[:, 1:]
    if bool(right.any()):
        row, token = right.nonzero()[0].tolist()
        raise ContractError(
            f"{where}: {name}.prompt_mask of row {row} counts token {token} and not the next; wanted prompts padded on "
            "the left"
        )
    mask = seq.response_mask
    ended = ((seq.response_ids == eos_id) & mask).long().cumsum(-1) > 0
    beyond = mask[:, 1:] & (~mask[:, :-1] | ended[:, :-1])
    if bool(beyond.any()):
        row, token = beyond.nonzero()[0].tolist()
        raise ContractError(
            f"{where}: {name}.response_mask counts token {token + 1} of row {row}, after the end of the response; "
            "wanted the rollouts' own mask: EOS is the last counted token, what follows it is padding"
        )
