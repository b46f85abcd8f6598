"""What an algorithm hands over is checked where it hands it over: what came, what was wanted, and where to mend it.

Dimensions: ``B`` rows, ``R`` response tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rft.types import LossOutput, OnPolicyBatch, PreferenceBatch, Rollouts, Sequences


class ContractError(TypeError):
    """An algorithm handed over what nothing can be done with."""


def place(function: Callable[..., Any]) -> str:
    """``file:line Class.method`` of a function."""
    code = inspect.unwrap(getattr(function, "__func__", function)).__code__
    return f"{code.co_filename}:{code.co_firstlineno} {function.__qualname__}"


def _check(name: str, x: Any, shape: tuple[int, ...], dtype: str, where: str, letters: str) -> None:
    """Refuse anything but a tensor of a shape and a kind of type, without a gradient, all finite."""
    wanted = f"wanted a {dtype} tensor [{letters}] = {list(shape)}"
    if not isinstance(x, Tensor):
        raise ContractError(f"{where}: {name} is a {type(x).__name__}; {wanted}")
    right_type = x.dtype == torch.bool if dtype == "bool" else x.is_floating_point()
    if tuple(x.shape) != shape or not right_type:
        raise ContractError(f"{where}: {name} is {x.dtype} {list(x.shape)}; {wanted}")
    if x.requires_grad:
        raise ContractError(f"{where}: {name} carries a gradient; {wanted} without one: detach it")
    if not bool(torch.isfinite(x).all()):
        raise ContractError(f"{where}: {name} has NaN or infinite entries; {wanted} of finite numbers")


def _check_masked(name: str, x_BR: Tensor, seq: Sequences, where: str) -> None:
    """Per-token numbers [B, R] that are zero where nothing is counted."""
    mask = seq.response_mask
    _check(name, x_BR, tuple(mask.shape), "float", where, "B, R")
    outside = x_BR.masked_fill(mask, 0) != 0
    if bool(outside.any()):
        row, token = outside.nonzero()[0].tolist()
        raise ContractError(
            f"{where}: {name} is {float(x_BR[row, token]):g} at row {row}, token {token}, after the end of the response"
            "; wanted 0 outside response_mask: multiply by the mask, or use the functions of rft.ops"
        )


def check_rollouts(rollouts: Rollouts, needs: frozenset[str], where: str) -> None:
    """Refuse to assign credit without what the algorithm says it needs.

    Raises:
        ContractError: naming the need that was not filled.
    """
    given = {
        "reference": rollouts.ref_logprobs,
        "value": rollouts.values,
        "greedy": rollouts.greedy_rewards,
    }
    for need in sorted(needs & set(given)):
        if given[need] is None:
            raise ContractError(f"{where}: needs has {need!r}, but the rollouts come without it; build them with needs")


def _check_pairs(batch: PreferenceBatch, where: str) -> None:
    """Pairs as many on both sides, the better response as chosen."""
    rows = (len(batch),)
    if len(batch.rejected) != len(batch):
        raise ContractError(f"{where}: {len(batch)} chosen and {len(batch.rejected)} rejected; wanted as many of both")
    _check("preference", batch.preference, rows, "float", where, "B")
    if bool(((batch.preference < 0.5) | (batch.preference > 1)).any()):
        raise ContractError(f"{where}: preference leaves [0.5, 1]; wanted the better response as chosen")
    for name, x in (
        ("ref_chosen_logprobs", batch.ref_chosen_logprobs),
        ("ref_rejected_logprobs", batch.ref_rejected_logprobs),
    ):
        if x is not None:
            _check(name, x, rows, "float", where, "B")


def check_batch(batch: Any, where: str) -> None:
    """Refuse a batch with wrong shapes, types, gradients, numbers that are not finite, or credit outside the mask.

    Raises:
        ContractError: naming the field.
    """
    if isinstance(batch, PreferenceBatch):
        _check_pairs(batch, where)
        return
    if not isinstance(batch, OnPolicyBatch):
        raise ContractError(f"{where}: gave a {type(batch).__name__}; wanted an OnPolicyBatch or a PreferenceBatch")
    mask = batch.sequences.response_mask
    if mask.dtype != torch.bool or mask.shape != batch.sequences.response_ids.shape:
        raise ContractError(
            f"{where}: response_mask is {mask.dtype} {list(mask.shape)}; wanted bool [B, R] = "
            f"{list(batch.sequences.response_ids.shape)}, as the rollouts have it"
        )
    fields: dict[str, Any] = {
        "logprobs": batch.logprobs,
        "advantages": batch.advantages,
        "returns": batch.returns,
        "values": batch.values,
        "ref_logprobs": batch.ref_logprobs,
    }
    for name, x in fields.items():
        if x is not None or name in ("logprobs", "advantages"):
            _check_masked(name, x, batch.sequences, where)
            if x.dtype != batch.logprobs.dtype:
                raise ContractError(
                    f"{where}: {name} is {x.dtype}; wanted {batch.logprobs.dtype}, as the rollouts have it"
                )


def check_mask(seq: Sequences, eos_id: int, where: str) -> None:
    """Refuse a mask that counts what follows the end of a response.

    Raises:
        ContractError: naming the place.
    """
    mask = seq.response_mask
    ended = ((seq.response_ids == eos_id) & mask).long().cumsum(-1) > 0
    beyond = mask[:, 1:] & (~mask[:, :-1] | ended[:, :-1])
    if bool(beyond.any()):
        row, token = beyond.nonzero()[0].tolist()
        raise ContractError(
            f"{where}: response_mask counts token {token + 1} of row {row}, after the end of the response; wanted the "
            "rollouts' own mask: EOS is the last counted token, what follows it is padding"
        )


def check_step(given: Any, back: Any, where: str) -> None:
    """Refuse other rows than an optimiser step has.

    Raises:
        ContractError: naming what came back.
    """
    if type(back) is not type(given) or len(back) != len(given):
        came = f"a {type(back).__name__}" + (f" of {len(back)} rows" if hasattr(back, "__len__") else "")
        raise ContractError(f"{where}: gave {came}; wanted the {type(given).__name__} of {len(given)} rows that it got")


def check_loss(out: Any, where: str) -> LossOutput:
    """Refuse a loss that is no scalar or that nothing can learn from, and metrics that are no scalars.

    Raises:
        ContractError: naming what came.
    """
    if not isinstance(out, LossOutput):
        raise ContractError(f"{where}: gave a {type(out).__name__}; wanted LossOutput(loss, metrics)")
    loss: Any = out.loss
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        came = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ContractError(
            f"{where}: loss is {came}; wanted one floating number []: reduce it over the counted tokens"
        )
    if not loss.requires_grad:
        raise ContractError(
            f"{where}: loss has no gradient; wanted one that depends on backbone.logprobs(Role.policy, …) of this call"
        )
    value: Any
    for name, value in out.metrics.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"{where}: metric {name!r} is {came}; wanted a tensor of one number")
    return out
