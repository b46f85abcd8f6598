"""Credit assignment and losses against hand-computed values. Dimensions: ``B`` sequences, ``R`` tokens."""

from __future__ import annotations

import math

import pytest
import torch

from rft.ops.advantages import gae, token_rewards
from rft.ops.kl import kl_k1, kl_k3, sequence_kl
from rft.ops.losses import bradley_terry_loss, clipped_value_loss, dpo_loss, ppo_policy_loss
from rft.ops.masked import masked_mean, whiten


def padded(x: torch.Tensor, value: float = 7.0) -> torch.Tensor:
    """Two more columns, of a value that must not count."""
    return torch.cat([x, torch.full((len(x), 2), value, dtype=x.dtype)], 1)


def test_reward_lands_on_the_last_counted_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    kl = torch.tensor([[0.5, -0.25, 9.0], [1.0, 2.0, 3.0]])
    got = token_rewards(torch.tensor([10.0, 20.0]), kl, mask, 0.1)
    torch.testing.assert_close(got, torch.tensor([[-0.05, 10.025, 0.0], [-0.1, -0.2, 19.7]]))


def test_gae_by_hand() -> None:
    # gamma 0.9, lambda 0.8: delta_1 = 1 - 0.5 = 0.5; delta_0 = 0 + 0.9 * 0.5 - 0.2 = 0.25; A_0 = 0.25 + 0.72 * 0.5
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.tensor([[0.61, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.81, 1.0]]))


def test_gae_at_lambda_one_is_reward_to_go_less_value_whatever_the_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    mask = torch.arange(6)[None] < torch.tensor([6, 3, 1, 5])[:, None]
    advantages, _ = gae(rewards, values, mask, 1.0, 1.0)
    kept = torch.where(mask, rewards, torch.zeros_like(rewards))
    to_go = kept.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, torch.where(mask, to_go - values, torch.zeros_like(values)))
    longer = torch.cat([mask, torch.zeros(4, 2, dtype=torch.bool)], 1)
    again, _ = gae(padded(rewards), padded(values), longer, 1.0, 1.0)
    torch.testing.assert_close(again[:, :6], advantages)


def test_whitening_counts_only_the_mask() -> None:
    x = torch.tensor([[1.0, 3.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(whiten(x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(whiten(x, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


def test_ppo_at_ratio_one_is_the_mean_negative_advantage() -> None:
    logprobs, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, -1.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, metrics = ppo_policy_loss(logprobs, logprobs, advantages, mask, 0.2)
    assert loss.item() == pytest.approx(0.5)
    assert metrics["ratio"].item() == 1.0
    assert metrics["clip_fraction"].item() == 0.0


def test_ppo_clips_by_hand() -> None:
    # Ratios 1.5 and 0.5; A = 1 and -1: -min(1.5, 1.2) = -1.2 and -min(-0.5, -0.8) = 0.8; mean -0.2
    logprobs = torch.tensor([[math.log(1.5), math.log(0.5)]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, metrics = ppo_policy_loss(logprobs, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), mask, 0.2)
    assert loss.item() == pytest.approx(-0.2)
    assert metrics["clip_fraction"].item() == 1.0
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.eq(0).all()


def test_ppo_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logprobs = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    old, advantages = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 4, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: ppo_policy_loss(x, old, advantages, mask, 0.2)[0], logprobs)


def test_clipped_value_loss_by_hand() -> None:
    # V = 1, V_old = 0, G = 0.5, eps 0.2: max(0.25, (0.2 - 0.5)^2 = 0.09) = 0.25; half of it
    one = torch.ones(1, 1)
    loss = clipped_value_loss(one, 0 * one, 0.5 * one, torch.ones(1, 1, dtype=torch.bool), 0.2)
    assert loss.item() == pytest.approx(0.125)


def test_dpo_at_the_reference_and_by_hand() -> None:
    same = torch.tensor([-5.0])
    assert dpo_loss(same, same, same, same, 0.1)[0].item() == pytest.approx(math.log(2))
    # h = (-4 + 5) - (-6 + 5) = 2, beta 0.5: -log sigma(1)
    loss, metrics = dpo_loss(torch.tensor([-4.0]), torch.tensor([-6.0]), same, same, 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert metrics["margin"].item() == pytest.approx(1.0)


def test_bradley_terry_soft_label_is_least_at_its_logit() -> None:
    margin = torch.tensor([math.log(3)], requires_grad=True)
    bradley_terry_loss(margin, torch.zeros(1), torch.tensor([0.75])).backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_kl_estimators_agree_in_expectation() -> None:
    generator = torch.Generator().manual_seed(2)
    p, q = (torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    for estimator in (kl_k1, kl_k3):
        assert (p.exp() * estimator(p[None], q[None])[0]).sum().item() == pytest.approx(exact.item())
    assert kl_k3(p[None], q[None]).min() >= 0
    mask = torch.tensor([[True] * 3 + [False] * 3])
    assert sequence_kl(p[None], q[None], mask).item() == pytest.approx((p - q)[:3].sum().item())


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        masked_mean(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))
