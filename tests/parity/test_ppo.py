"""PPO against TRL 1.12: one rollout of its trainer on small random models, and the updates it makes on it.

TRL's masks: `padding_mask` leaves uncounted what follows EOS; `padding_mask_p1` counts one token more, at which TRL
places the reward and reads the last value. Advantages and values are compared on the second mask, the policy's loss on
the first one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rft.ops.advantages import gae, token_rewards
from rft.ops.kl import kl_k1, kl_k3
from rft.ops.losses import clipped_value_loss, ppo_policy_loss
from rft.ops.masked import whiten
from tests.parity.compare import TOLERANCE, assert_same
from tests.parity.exchange import Tensors
from tests.parity.suite import CASES_112

pytestmark = pytest.mark.parity

CASES = pytest.mark.parametrize("name", CASES_112)


def whitened_as_trl(x_BR: Tensor, mask_BR: Tensor, shift_mean: bool) -> Tensor:
    """Ours, times √((n−1)/n): TRL takes the unbiased variance of the n counted tokens, we the biased one."""
    count = mask_BR.sum()
    mean = 0.0 if shift_mean else x_BR[mask_BR].mean()
    ours = whiten(x_BR, mask_BR, shift_mean=shift_mean)
    return torch.where(mask_BR, (ours - mean) * ((count - 1) / count).sqrt() + mean, torch.zeros_like(ours))


def updates(theirs: Tensors) -> list[Tensors]:
    """What TRL recorded at each update."""
    split = [(key.split("_", 2), x) for key, x in theirs.items() if key.startswith("update_")]
    found: dict[int, Tensors] = {}
    for (_, number, name), x in split:
        found.setdefault(int(number), {})[name] = x
    return [found[number] for number in sorted(found)]


@CASES
def test_masks_are_ragged(trl_112: dict[str, Tensors], name: str) -> None:
    lengths = (~trl_112[name]["padding_mask"]).sum(-1)
    assert lengths.min() == 1
    assert lengths.max() == CASES_112[name].settings["response"]
    assert len(lengths.unique()) > 3


@CASES
def test_token_rewards(trl_112: dict[str, Tensors], name: str) -> None:
    theirs, settings = trl_112[name], CASES_112[name].settings
    mask_BR = ~theirs["padding_mask_p1"]
    estimator = kl_k3 if settings.get("kl_estimator") == "k3" else kl_k1
    kl_BR = estimator(theirs["logprobs"], theirs["ref_logprobs"])
    assert_same(kl_BR, theirs["kl"])
    ours = token_rewards(theirs["scores"], kl_BR, mask_BR, settings.get("kl_coef", 0.05))
    assert_same(ours, theirs["rewards_before" if settings.get("whiten_rewards") else "rewards"])


def test_whitened_rewards(trl_112: dict[str, Tensors]) -> None:
    theirs = trl_112["k3"]
    mask_BR = ~theirs["padding_mask_p1"]
    ours = whitened_as_trl(theirs["rewards_before"], mask_BR, shift_mean=False)
    assert_same(ours, theirs["rewards_whitened"] * mask_BR)


@CASES
def test_gae(trl_112: dict[str, Tensors], name: str) -> None:
    theirs, settings = trl_112[name], CASES_112[name].settings
    mask_BR = ~theirs["padding_mask_p1"]
    ours, returns_BR = gae(theirs["rewards"], theirs["values"], mask_BR, settings["gamma"], settings["lam"])
    assert_same(ours, theirs["advantages"])
    assert_same(returns_BR, theirs["returns"])


@CASES
def test_whitened_advantages(trl_112: dict[str, Tensors], name: str) -> None:
    theirs = trl_112[name]
    mask_BR = ~theirs["padding_mask"]
    ours = whitened_as_trl(theirs["advantages"], mask_BR, shift_mean=True)
    assert_same(ours, theirs["whitened"] * mask_BR)


@CASES
def test_losses_and_gradients_of_every_update(trl_112: dict[str, Tensors], name: str) -> None:
    """TRL's gradient is that of policy loss + 0.1 · value loss."""
    theirs, settings = trl_112[name], CASES_112[name].settings
    clip, value_clip = settings.get("cliprange", 0.2), settings.get("cliprange_value", 0.2)
    clipped, value_clipped = 0.0, 0.0
    for update in updates(theirs):
        mask_BR, value_mask_BR = (~theirs[key][update["rows"]] for key in ("padding_mask", "padding_mask_p1"))
        logprobs_BR, values_BR = update["new_logprobs"].requires_grad_(), update["vpred"].requires_grad_()
        policy_loss, metrics = ppo_policy_loss(
            logprobs_BR, update["mb_logprobs"], update["mb_advantage"], mask_BR, clip
        )
        value_loss = clipped_value_loss(values_BR, update["mb_values"], update["mb_return"], value_mask_BR, value_clip)
        assert_same(policy_loss.detach(), update["pg_loss"])
        assert_same(value_loss.detach(), update["vf_loss"])
        assert_same(metrics["clip_fraction"].float(), update["pg_clipfrac"].float())
        gradients = torch.autograd.grad(policy_loss + 0.1 * value_loss, (logprobs_BR, values_BR))
        assert_same(gradients[0], update["new_logprobs_grad"])
        assert_same(gradients[1], update["vpred_grad"])
        assert gradients[0].abs().max() > 100 * TOLERANCE
        clipped += metrics["clip_fraction"].item()
        value_clipped += (gradients[1][value_mask_BR] == 0).float().mean().item()
    assert len(updates(theirs)) == 2 * settings["num_ppo_epochs"]
    assert clipped > 0
    assert value_clipped > 0
