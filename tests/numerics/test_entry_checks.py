"""Every public operation names the tensor that is wrong, what came and what was wanted.

Dimensions: ``B`` sequences, ``R`` tokens, ``H`` hidden, ``V`` vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.ops import advantages, kl, logprobs, losses, masked, preference

MASK_BR = torch.ones(2, 3, dtype=torch.bool)
X_BR, X_B, LENGTHS_B = torch.zeros(2, 3), torch.zeros(2), torch.ones(2, dtype=torch.long)
GROUP_B, DESIRABLE_B = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)
KEPT_B = DESIRABLE_B
HIDDEN_BRH, HEAD_VH, IDS_BR = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3, dtype=torch.long)

PAIR = {"chosen_logratios_B": X_B, "rejected_logratios_B": X_B}
MEAN_PAIR = {"chosen_mean_logprobs_B": X_B, "rejected_mean_logprobs_B": X_B}
SURROGATE = {"logprobs_BR": X_BR, "old_logprobs_BR": X_BR, "advantages_BR": X_BR, "mask_BR": MASK_BR}
LOGPROBS = {"logprobs_BR": X_BR, "ref_logprobs_BR": X_BR}

# Each operation with tensors that it takes; all other settings are bound.
OPERATIONS: dict[str, tuple[Callable[..., Any], dict[str, Tensor]]] = {
    "masked_sum": (masked.masked_sum, {"x_BR": X_BR, "mask_BR": MASK_BR}),
    "masked_mean": (masked.masked_mean, {"x_BR": X_BR, "mask_BR": MASK_BR}),
    "sequence_mean": (masked.sequence_mean, {"x_BR": X_BR, "mask_BR": MASK_BR}),
    "fixed_mean": (partial(masked.fixed_mean, length=3), {"x_BR": X_BR, "mask_BR": MASK_BR}),
    "row_mean": (masked.row_mean, {"x_B": X_B, "kept_B": KEPT_B}),
    "whiten": (masked.whiten, {"x_BR": X_BR, "mask_BR": MASK_BR}),
    "token_rewards": (
        partial(advantages.token_rewards, kl_coef=0.1),
        {"sequence_rewards_B": X_B, "kl_BR": X_BR, "mask_BR": MASK_BR},
    ),
    "gae": (partial(advantages.gae, gamma=1.0, lam=1.0), {"rewards_BR": X_BR, "values_BR": X_BR, "mask_BR": MASK_BR}),
    "rewards_to_go": (advantages.rewards_to_go, {"rewards_BR": X_BR, "mask_BR": MASK_BR}),
    "group_relative": (
        partial(advantages.group_relative, scale=True),
        {"rewards_B": X_B, "group_B": GROUP_B, "counted_B": KEPT_B},
    ),
    "leave_one_out": (advantages.leave_one_out, {"rewards_B": X_B, "group_B": GROUP_B, "counted_B": KEPT_B}),
    "fill_missing": (advantages.fill_missing, {"rewards_B": X_B, "group_B": GROUP_B}),
    "group_extremes": (advantages.group_extremes, {"rewards_B": X_B, "group_B": GROUP_B}),
    "kl_k1": (kl.kl_k1, LOGPROBS),
    "kl_k2": (kl.kl_k2, LOGPROBS),
    "kl_k3": (kl.kl_k3, LOGPROBS),
    "sequence_kl": (kl.sequence_kl, {**LOGPROBS, "mask_BR": MASK_BR}),
    "token_logprobs": (
        logprobs.token_logprobs,
        {"hidden_BRH": HIDDEN_BRH, "head_VH": HEAD_VH, "token_ids_BR": IDS_BR, "mask_BR": MASK_BR},
    ),
    "token_entropy": (
        logprobs.token_entropy,
        {"hidden_BRH": HIDDEN_BRH, "head_VH": HEAD_VH, "mask_BR": MASK_BR},
    ),
    "clipped_surrogate": (partial(losses.clipped_surrogate, clip_low=0.2, clip_high=0.2), SURROGATE),
    "ppo_policy_loss": (partial(losses.ppo_policy_loss, clip_range=0.2), SURROGATE),
    "clipped_value_loss": (
        partial(losses.clipped_value_loss, clip_range=0.2),
        {"values_BR": X_BR, "old_values_BR": X_BR, "returns_BR": X_BR, "mask_BR": MASK_BR},
    ),
    "bradley_terry_loss": (losses.bradley_terry_loss, {"first_B": X_B, "second_B": X_B, "preference_B": X_B}),
    "sigmoid_loss": (partial(preference.sigmoid_loss, beta=0.1), PAIR),
    "conservative_loss": (partial(preference.conservative_loss, beta=0.1, label_smoothing=0.1), PAIR),
    "robust_loss": (partial(preference.robust_loss, beta=0.1, label_smoothing=0.1), PAIR),
    "soft_sigmoid_loss": (partial(preference.soft_sigmoid_loss, beta=0.1), {**PAIR, "preference_B": X_B}),
    "ipo_loss": (partial(preference.ipo_loss, beta=0.1), PAIR),
    "hinge_loss": (partial(preference.hinge_loss, beta=0.1), PAIR),
    "sppo_loss": (partial(preference.sppo_loss, beta=0.1), PAIR),
    "apo_zero_loss": (partial(preference.apo_zero_loss, beta=0.1), PAIR),
    "simpo_loss": (partial(preference.simpo_loss, beta=0.1, margin=0.5), MEAN_PAIR),
    "odds_ratio_loss": (preference.odds_ratio_loss, MEAN_PAIR),
    "kto_loss": (
        partial(preference.kto_loss, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        {"logratios_B": X_B, "desirable_B": DESIRABLE_B, "kl": torch.zeros(())},
    ),
}
ARGUMENTS = [(name, argument) for name, (_, tensors) in OPERATIONS.items() for argument in tensors]


def shown(argument: str, x: Tensor) -> str:
    """The argument as a message has it, "mask [2, 3] bool", as a pattern."""
    name = re.sub("_[A-Z]+$", "", argument)
    return re.escape(f"{name} {list(x.shape)} {str(x.dtype).removeprefix('torch.')}")


def test_every_public_operation_is_here() -> None:
    found = {
        name
        for module in (masked, advantages, kl, logprobs, losses, preference)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    checks = {name for name in found if name.startswith("check_")}
    # Of these the first takes no tensor, and the others one of whole numbers alone.
    assert found - checks - {"shown"} - set(OPERATIONS) == {"best_of_n_kl", "overlong_penalty", "pairs_in_groups"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_right_tensors_are_taken(name: str) -> None:
    operation, tensors = OPERATIONS[name]
    results = operation(**tensors)
    first = results[0] if isinstance(results, tuple) else results
    assert bool(torch.isfinite(first).all())


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_another_shape_is_refused(name: str, argument: str) -> None:
    operation, tensors = OPERATIONS[name]
    x = tensors[argument]
    wrong = x[..., :-1] if x.ndim else x[None]
    with pytest.raises(ValueError, match=shown(argument, wrong)):
        operation(**{**tensors, argument: wrong})


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_another_dtype_is_refused(name: str, argument: str) -> None:
    operation, tensors = OPERATIONS[name]
    x = tensors[argument]
    wrong = x.long() if x.is_floating_point() else x.float()
    with pytest.raises(TypeError, match=shown(argument, wrong) + ".* wanted.* convert"):
        operation(**{**tensors, argument: wrong})


@pytest.mark.parametrize("name", OPERATIONS)
def test_other_dimensions_are_refused_even_if_all_are_alike(name: str) -> None:
    operation, tensors = OPERATIONS[name]
    with pytest.raises(ValueError, match=r"the shape \[.*\] is wanted|must agree|differ"):
        operation(**{argument: x[None] for argument, x in tensors.items()})


def test_lengths_are_whole_numbers_in_one_dimension() -> None:
    with pytest.raises(TypeError, match=r"lengths \[2\] float32: whole numbers are wanted"):
        advantages.overlong_penalty(LENGTHS_B.float(), 4, 2)
    with pytest.raises(ValueError, match=r"lengths \[1, 2\] int64: the shape \[B\] is wanted"):
        advantages.overlong_penalty(LENGTHS_B[None], 4, 2)


def test_a_message_says_what_came_what_was_wanted_and_the_mend() -> None:
    with pytest.raises(ValueError, match=r"^shapes differ: x \[2, 3\] float32, mask \[2, 4\] bool; all must be equal"):
        masked.masked_mean(X_BR, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"^mask \[2, 3\] int64: torch.bool is wanted, .*; convert it with \.bool\(\)$"):
        masked.masked_mean(X_BR, MASK_BR.long())
