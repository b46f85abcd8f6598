"""The rows that an algorithm learns from are checked where they are handed over: what came, what was wanted, the mend.

Dimensions: ``B`` rows, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rft.algorithms.checked import ContractError, check_mask, check_sequences, check_tensor
from rft.config.schemas import OnPolicyConfig
from rft.types import OnPolicyBatch, PreferenceBatch, Rollouts, Sequences, UnpairedBatch


def _check_masked(name: str, x_BR: Tensor, seq: Sequences, where: str) -> None:
    """Per-token numbers [B, R] that are zero where nothing is counted."""
    mask = seq.response_mask
    check_tensor(name, x_BR, tuple(mask.shape), "float", where, "B, R")
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
        "feedback": rollouts.preferences,
    }
    for need in sorted(needs & set(given)):
        if given[need] is None:
            raise ContractError(f"{where}: needs has {need!r}, but the rollouts come without it; build them with needs")


def _check_text(seq: Any, eos_id: int, where: str, name: str) -> None:
    check_sequences(seq, where, name)
    check_mask(seq, eos_id, where, name)


def _check_pairs(batch: PreferenceBatch, eos_id: int, where: str) -> None:
    """Pairs as many on both sides, the better response as chosen."""
    _check_text(batch.chosen, eos_id, where, "chosen")
    _check_text(batch.rejected, eos_id, where, "rejected")
    rows = (len(batch),)
    if len(batch.rejected) != len(batch):
        raise ContractError(f"{where}: {len(batch)} chosen and {len(batch.rejected)} rejected; wanted as many of both")
    check_tensor("preference", batch.preference, rows, "float", where, "B")
    if bool(((batch.preference < 0.5) | (batch.preference > 1)).any()):
        raise ContractError(f"{where}: preference leaves [0.5, 1]; wanted the better response as chosen")
    for name, x in (
        ("ref_chosen_logprobs", batch.ref_chosen_logprobs),
        ("ref_rejected_logprobs", batch.ref_rejected_logprobs),
    ):
        if x is not None:
            check_tensor(name, x, rows, "float", where, "B")


def _check_singles(batch: UnpairedBatch, eos_id: int, where: str) -> None:
    """A mismatched response and a label for each response."""
    _check_text(batch.sequences, eos_id, where, "sequences")
    _check_text(batch.mismatched, eos_id, where, "mismatched")
    rows = (len(batch),)
    if len(batch.mismatched) != len(batch):
        raise ContractError(
            f"{where}: {len(batch)} sequences and {len(batch.mismatched)} mismatched; wanted as many of both"
        )
    check_tensor("desirable", batch.desirable, rows, "bool", where, "B")
    for name, x in (
        ("ref_logprobs", batch.ref_logprobs),
        ("ref_mismatched_logprobs", batch.ref_mismatched_logprobs),
    ):
        if x is not None:
            check_tensor(name, x, rows, "float", where, "B")
    if batch.kl is not None:
        check_tensor("kl", batch.kl, (), "float", where, "")


def check_labelled(batch: Any, eos_id: int, where: str) -> None:
    """Refuse labelled rows with wrong shapes, types, gradients or numbers.

    Raises:
        ContractError: naming the field.
    """
    if isinstance(batch, PreferenceBatch):
        _check_pairs(batch, eos_id, where)
    elif isinstance(batch, UnpairedBatch):
        _check_singles(batch, eos_id, where)


def check_batch(batch: Any, eos_id: int, where: str) -> None:
    """Refuse a batch with wrong shapes, types, gradients, numbers that are not finite, or credit outside the mask.

    Raises:
        ContractError: naming the field.
    """
    if isinstance(batch, PreferenceBatch):
        _check_pairs(batch, eos_id, where)
        return
    if not isinstance(batch, OnPolicyBatch):
        raise ContractError(f"{where}: gave a {type(batch).__name__}; wanted an OnPolicyBatch or a PreferenceBatch")
    _check_text(batch.sequences, eos_id, where, "sequences")
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


def check_rows(rows: int, rollouts: int, config: OnPolicyConfig, where: str) -> None:
    """Refuse another number of rows than the settings promise for these rollouts: a rank's share of an iteration, or
    what a limit of the budget left of it.

    Raises:
        ContractError: naming both numbers.
    """
    whole = config.prompts_per_iteration * config.samples_per_prompt
    if abs(rows * whole - config.batch_rows * rollouts) >= whole:  # a row or more apart
        raise ContractError(
            f"{where}: gave {rows} rows of {rollouts} rollouts; wanted {config.batch_rows * rollouts / whole:g}, as "
            f"batch_rows says ({config.batch_rows} of {whole}): let the Config's batch_rows say how many it makes"
        )
