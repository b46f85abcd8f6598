"""Losses on pairs and on single judgements, and the reward model's, against TRL 1.16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rft.ops.logprobs import token_logprobs
from rft.ops.losses import bradley_terry_loss
from rft.ops.masked import masked_sum
from rft.ops.preference import (
    apo_zero_loss,
    conservative_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    odds_ratio_loss,
    robust_loss,
    sigmoid_loss,
    simpo_loss,
    sppo_loss,
)
from tests.parity.cases import P, V, response_logprobs
from tests.parity.compare import assert_same, assert_same_loss
from tests.parity.exchange import Tensors
from tests.parity.suite import KTO, PAIRS, PREFERENCE, REWARD, SIMPO

pytestmark = pytest.mark.parity

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid_loss,
    "ipo": ipo_loss,
    "hinge": hinge_loss,
    "robust": robust_loss,
    "sppo": sppo_loss,
    "apo_zero": apo_zero_loss,
}


def logratios(x: Tensors, prefix: str = "") -> Tensor:
    """log π(y|x) − log π_ref(y|x), summed over counted tokens. Shape [B]."""
    ids_BT, mask_BR = x[f"{prefix}ids_BT"], x[f"{prefix}mask_BR"]
    return masked_sum(response_logprobs(x["table_VV"], ids_BT) - response_logprobs(x["ref_table_VV"], ids_BT), mask_BR)


@pytest.mark.parametrize("name", PREFERENCE)
def test_loss_on_pairs(trl_116: dict[str, Tensors], name: str) -> None:
    """TRL's IPO takes the mean over tokens where the paper, and ours, has the sum: ours is given the means."""
    case = PREFERENCE[name]
    x, loss = case.tensors, LOSSES[name.partition("-")[0]]
    table_VV = x["table_VV"].requires_grad_()
    logratios_B = logratios(x)
    if loss is ipo_loss:
        logratios_B = logratios_B / x["mask_BR"].sum(-1)
    chosen_B, rejected_B = logratios_B.chunk(2)
    settings = {key: value for key, value in case.settings.items() if key != "loss_type"}
    assert_same_loss(loss(chosen_B, rejected_B, **settings).mean(), trl_116[name], table_VV)


@pytest.mark.parametrize("name", PAIRS)
def test_loss_on_given_numbers(trl_116: dict[str, Tensors], name: str) -> None:
    """TRL's DPO smooths no labels; its CPO does, without a reference, and so is given log-ratios."""
    case = PAIRS[name]
    chosen_B, rejected_B = (case.tensors[key].requires_grad_() for key in ("chosen_B", "rejected_B"))
    if name.startswith("conservative"):
        settings = case.settings
        loss_B = conservative_loss(chosen_B, rejected_B, settings["beta"], settings["label_smoothing"])
    else:
        loss_B = odds_ratio_loss(chosen_B, rejected_B)
    assert_same_loss(loss_B, trl_116[name], chosen_B, rejected_B)


@pytest.mark.parametrize("name", SIMPO)
def test_simpo(trl_116: dict[str, Tensors], name: str) -> None:
    case = SIMPO[name]
    table_VV, mask_BR = case.tensors["table_VV"].requires_grad_(), case.tensors["mask_BR"]
    logprobs_BR = response_logprobs(table_VV, case.tensors["ids_BT"])
    chosen_B, rejected_B = (masked_sum(logprobs_BR, mask_BR) / mask_BR.sum(-1)).chunk(2)
    loss_B = simpo_loss(chosen_B, rejected_B, beta=case.settings["beta"], margin=case.settings["simpo_gamma"])
    assert_same_loss(loss_B.mean(), trl_116[name], table_VV)


@pytest.mark.parametrize("name", KTO)
def test_kto(trl_116: dict[str, Tensors], name: str) -> None:
    """The KL is estimated by the caller: TRL takes the mean of the mismatched responses' log-ratios, at least 0."""
    case = KTO[name]
    table_VV = case.tensors["table_VV"].requires_grad_()
    mean = logratios(case.tensors, "kl_").mean()
    assert (mean.item() > 0) == name.startswith("kto_kl_positive")
    settings = {key: case.settings[key] for key in ("beta", "desirable_weight", "undesirable_weight")}
    loss_B = kto_loss(logratios(case.tensors), case.tensors["desirable_B"], mean.clamp(min=0), **settings)
    assert_same_loss(loss_B.mean(), trl_116[name], table_VV)


@pytest.mark.parametrize("name", REWARD)
def test_reward_model(trl_116: dict[str, Tensors], name: str) -> None:
    scores_B = REWARD[name].tensors["scores_B"].requires_grad_()
    chosen_B, rejected_B = scores_B.chunk(2)
    loss = bradley_terry_loss(chosen_B, rejected_B, torch.ones_like(chosen_B))
    assert_same_loss(loss, trl_116[name], scores_B)


def test_our_logprobs_lead_to_the_same_loss(trl_116: dict[str, Tensors]) -> None:
    """From hidden states to the loss: the hidden states are one-hot tokens, the head is the table."""
    case = PREFERENCE["sigmoid-float32"]
    x, head_VV = case.tensors, case.tensors["table_VV"].T.clone().requires_grad_()
    ids_BT, mask_BR = x["ids_BT"], x["mask_BR"]
    hidden_BRV = torch.nn.functional.one_hot(ids_BT[:, P - 1 : -1], V).float()
    logratios_BR = token_logprobs(hidden_BRV, head_VV, ids_BT[:, P:], mask_BR)
    logratios_BR = logratios_BR - token_logprobs(hidden_BRV, x["ref_table_VV"].T, ids_BT[:, P:], mask_BR)
    loss = sigmoid_loss(*masked_sum(logratios_BR, mask_BR).chunk(2), case.settings["beta"]).mean()
    theirs = trl_116["sigmoid-float32"]
    assert_same(loss.detach(), theirs["loss"])
    assert_same(torch.autograd.grad(loss, head_VV)[0].T, theirs["gradient_0"])
