"""GRPO and RLOO, losses and advantages, against TRL 1.16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rft.ops.advantages import group_relative, leave_one_out
from rft.ops.kl import kl_k3, sequence_kl
from rft.ops.losses import clipped_surrogate
from rft.ops.masked import fixed_mean, masked_mean, masked_sum, sequence_mean
from tests.parity.cases import GROUP_SIZE, GROUPS, response_logprobs
from tests.parity.compare import assert_same, assert_same_loss
from tests.parity.exchange import Tensors
from tests.parity.suite import ADVANTAGES, GRPO, RLOO

pytestmark = pytest.mark.parity

GROUP_B = torch.arange(GROUPS).repeat_interleave(GROUP_SIZE)


def reduced(x_BR: Tensor, mask_BR: Tensor, settings: dict[str, Any]) -> Tensor:
    """TRL's four normalisers; "dapo" and "bnpo" are one where the batch is that of a whole update."""
    if settings["loss_type"] == "grpo":
        return sequence_mean(x_BR, mask_BR)
    if settings["loss_type"] == "dr_grpo":
        return fixed_mean(x_BR, mask_BR, settings["max_completion_length"])
    return masked_mean(x_BR, mask_BR)


@pytest.mark.parametrize("name", GRPO)
def test_grpo(trl_116: dict[str, Tensors], name: str) -> None:
    """TRL's two-sided clip, `delta`, is the dual clip: it bounds the ratio where the advantage is negative.

    TRL multiplies the KL by the ratio unless told not to; GRPO's paper, and ours, have it as it is.
    """
    case = GRPO[name]
    x, settings = case.tensors, case.settings
    table_VV, mask_BR = x["table_VV"].requires_grad_(), x["mask_BR"]
    logprobs_BR = response_logprobs(table_VV, x["ids_BT"])
    advantages_BR = x["advantages_B"][:, None].expand_as(logprobs_BR)
    low, high = settings["epsilon"], settings.get("epsilon_high", settings["epsilon"])
    loss_BR, metrics = clipped_surrogate(
        logprobs_BR, x["old_logprobs_BR"], advantages_BR, mask_BR, low, high, dual_clip=settings.get("delta")
    )
    assert metrics["clip_fraction"] > 0.1
    kl_BR = kl_k3(logprobs_BR, x["ref_logprobs_BR"])
    if settings.get("use_bias_correction_kl", True):
        kl_BR = kl_BR * (logprobs_BR - x["old_logprobs_BR"]).exp()
    loss_BR = loss_BR + settings["beta"] * kl_BR
    assert_same_loss(reduced(loss_BR, mask_BR, settings), trl_116[name], table_VV)


@pytest.mark.parametrize("name", RLOO)
def test_rloo(trl_116: dict[str, Tensors], name: str) -> None:
    """TRL clips the ratio of whole sequences: ours, given each sequence as one token."""
    case = RLOO[name]
    x, epsilon = case.tensors, case.settings["epsilon"]
    table_VV, mask_BR = x["table_VV"].requires_grad_(), x["mask_BR"]
    logprobs_B1 = masked_sum(response_logprobs(table_VV, x["ids_BT"]), mask_BR)[:, None]
    old_B1 = masked_sum(x["old_logprobs_BR"], mask_BR)[:, None]
    one_B1 = torch.ones_like(old_B1, dtype=torch.bool)
    loss_B1, metrics = clipped_surrogate(logprobs_B1, old_B1, x["advantages_B"][:, None], one_B1, epsilon, epsilon)
    assert 0 < metrics["clip_fraction"] < 1
    assert_same_loss(masked_mean(loss_B1, one_B1), trl_116[name], table_VV)


@pytest.mark.parametrize("scale", [True, False])
def test_group_relative_advantages(trl_116: dict[str, Tensors], scale: bool) -> None:
    """Both divide by the unbiased standard deviation; TRL adds 1e-4 to it, so ours is given that."""
    name = "group" if scale else "none"
    ours = group_relative(ADVANTAGES[name].tensors["rewards_B"], GROUP_B, scale=scale, eps=1e-4)
    assert_same(ours, trl_116[name]["advantages"])
    assert ours[GROUP_B == 1].abs().max() == 0


def test_leave_one_out_advantages(trl_116: dict[str, Tensors]) -> None:
    ours = leave_one_out(ADVANTAGES["leave_one_out"].tensors["rewards_B"], GROUP_B)
    assert_same(ours, trl_116["leave_one_out"]["advantages"])


def test_leave_one_out_advantages_of_rewards_less_the_kl(trl_116: dict[str, Tensors]) -> None:
    """TRL samples the responses here. It puts zeros for the log-probabilities of padding, so ours get other numbers."""
    case, theirs = ADVANTAGES["leave_one_out_kl"], trl_116["leave_one_out_kl"]
    mask_BR = theirs["mask"]
    assert not mask_BR.all()
    kl_B = sequence_kl(theirs["logprobs"].masked_fill(~mask_BR, 7.0), theirs["ref_logprobs"], mask_BR)
    assert kl_B.abs().max() > 0.1
    assert_same(leave_one_out(case.tensors["rewards_B"] - case.settings["beta"] * kl_B, GROUP_B), theirs["advantages"])
