"""Credit assignment and losses against hand-computed values. Dimensions: ``B`` sequences, ``R`` tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from rft.ops.advantages import gae, token_rewards
from rft.ops.kl import kl_k1, kl_k3, sequence_kl
from rft.ops.losses import bradley_terry_loss, clipped_value_loss, dpo_loss, ppo_policy_loss
from rft.ops.masked import masked_mean, whiten


def padded(x: torch.Tensor, value: float = 7.0) -> torch.Tensor:
    """Two more columns, of a value that must not count."""
    return torch.cat([x, torch.full((len(x), 2), value, dtype=x.dtype)], 1)


def assert_padding_is_nothing(loss: Callable[..., torch.Tensor], first: torch.Tensor, *others: torch.Tensor) -> None:
    """Two more columns of any numbers change neither the loss nor its gradient, and get none themselves.

    Args:
        loss: of tensors [B, R], the last of them the mask.
        first: the one with a gradient.
        others: the rest, the mask last.
    """
    *rest, mask = others
    x, wide = (t.clone().requires_grad_() for t in (first, padded(first, 3.0)))
    longer = torch.cat([mask, torch.zeros(len(mask), 2, dtype=torch.bool)], 1)
    plain, same = loss(x, *rest, mask), loss(wide, *(padded(t) for t in rest), longer)
    torch.testing.assert_close(same, plain)
    (wanted,), (got,) = torch.autograd.grad(plain, x), torch.autograd.grad(same, wide)
    torch.testing.assert_close(got, torch.cat([wanted, torch.zeros(len(mask), 2, dtype=wanted.dtype)], 1))


def ragged(count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Random numbers [3, 4] in float64 and a mask with rows of 4, 1 and 3 tokens."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(4)[None] < torch.tensor([4, 1, 3])[:, None]
    return [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(count)], mask


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


def test_ppo_counts_no_padding() -> None:
    (logprobs, old, advantages), mask = ragged(3)
    assert_padding_is_nothing(lambda *x: ppo_policy_loss(*x, 0.2)[0], logprobs, old, advantages, mask)


def test_clipped_value_loss_by_hand() -> None:
    # V = 1, V_old = 0, G = 0.5, eps 0.2: max(0.25, (0.2 - 0.5)^2 = 0.09) = 0.25; half of it
    one = torch.ones(1, 1)
    loss = clipped_value_loss(one, 0 * one, 0.5 * one, torch.ones(1, 1, dtype=torch.bool), 0.2)
    assert loss.item() == pytest.approx(0.125)


def test_clipped_value_loss_counts_the_larger_error_and_stops_there_what_has_moved_far_enough() -> None:
    # V = 1, V_old = 0, eps 0.2, G = 0.5 and 1: max(0.25, 0.09) = 0.25 and max(0, (0.2 - 1)^2 = 0.64) = 0.64.
    # Half their mean is 0.2225. Gradient: 2 (1 - 0.5) / 4 = 0.25, and none where the clipped value is the worse one.
    values = torch.ones(1, 2, requires_grad=True)
    returns, mask = torch.tensor([[0.5, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    loss = clipped_value_loss(values, torch.zeros(1, 2), returns, mask, 0.2)
    assert loss.item() == pytest.approx(0.2225)
    torch.testing.assert_close(torch.autograd.grad(loss, values)[0], torch.tensor([[0.25, 0.0]]))


def test_value_gradient_is_that_of_finite_differences() -> None:
    (values, old, returns), mask = ragged(3)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, old, returns, mask, 0.2), values)


def test_value_loss_counts_no_padding() -> None:
    (values, old, returns), mask = ragged(3)
    assert_padding_is_nothing(lambda *x: clipped_value_loss(*x, 0.2), values, old, returns, mask)


def test_dpo_at_the_reference_and_by_hand() -> None:
    same = torch.tensor([-5.0])
    assert dpo_loss(same, same, same, same, 0.1)[0].item() == pytest.approx(math.log(2))
    # h = (-4 + 5) - (-6 + 5) = 2, beta 0.5: -log sigma(1)
    loss, metrics = dpo_loss(torch.tensor([-4.0]), torch.tensor([-6.0]), same, same, 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert metrics["margin"].item() == pytest.approx(1.0)


def test_dpo_with_smoothed_labels_by_hand() -> None:
    # Margin beta h = 0.5 * 2 = 1, eps 0.1: 0.9 log(1 + e^-1) + 0.1 log(1 + e) = log(1 + e^-1) + 0.1,
    # since log(1 + e) = 1 + log(1 + e^-1).
    same = torch.tensor([-5.0])
    loss, _ = dpo_loss(torch.tensor([-4.0]), torch.tensor([-6.0]), same, same, 0.5, label_smoothing=0.1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)) + 0.1)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_dpo_gradient_is_that_of_finite_differences(label_smoothing: float) -> None:
    generator = torch.Generator().manual_seed(3)
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    assert torch.autograd.gradcheck(
        lambda *x: dpo_loss(*x, ref_chosen, ref_rejected, 0.5, label_smoothing)[0],
        (chosen.requires_grad_(), rejected.requires_grad_()),
    )


def test_bradley_terry_by_hand() -> None:
    # Margins 2 and 0 with P = 3/4 and 1: 0.75 log(1 + e^-2) + 0.25 log(1 + e^2) = log(1 + e^-2) + 0.25 * 2,
    # and log 2; their mean.
    first, second = torch.tensor([1.5, 3.0]), torch.tensor([-0.5, 3.0])
    loss = bradley_terry_loss(first, second, torch.tensor([0.75, 1.0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + 0.5 + math.log(2)) / 2)


def test_bradley_terry_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    preference = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: bradley_terry_loss(*x, preference), (first, second))


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
