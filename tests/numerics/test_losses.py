"""Losses of policy, critic and reward model against hand-computed values.

Dimensions: ``B`` sequences or pairs, ``R`` tokens.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rft.ops.losses import bradley_terry_loss, clipped_surrogate, clipped_value_loss, ppo_policy_loss
from rft.ops.masked import masked_mean, sequence_mean
from tests.numerics.ragged import assert_padding_is_nothing, ragged

# Ratios with advantage 1, then with advantage -1. Bounds 0.8 and 1.28.
RATIOS = torch.tensor([[1.5, 1.25, 0.5], [0.5, 1.5, 4.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], dtype=torch.float64)
ALL = torch.ones(2, 3, dtype=torch.bool)


def surrogate(dual_clip: float | None = None, mask: Tensor = ALL) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss of each token, its gradient in the log-probability, and the metrics."""
    logprobs = RATIOS.log().requires_grad_()
    loss, metrics = clipped_surrogate(logprobs, torch.zeros_like(RATIOS), ADVANTAGES, mask, 0.2, 0.28, dual_clip)
    return loss, torch.autograd.grad(loss.sum(), logprobs)[0], metrics


def test_surrogate_with_different_bounds_by_hand() -> None:
    # max(-1.5, -1.28), max(-1.25, -1.25), max(-0.5, -0.8); max(0.5, 0.8), max(1.5, 1.28), max(4, 1.28).
    loss, gradient, metrics = surrogate()
    wanted = torch.tensor([[-1.28, -1.25, -0.5], [0.8, 1.5, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(loss, wanted)
    # d(-rho A) / d log pi = -rho A, and nothing where the clipped term is the greater.
    torch.testing.assert_close(gradient, wanted * torch.tensor([[0, 1, 1], [0, 1, 1]]))
    assert metrics["ratio"].item() == pytest.approx(9.25 / 6)
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 6)
    # The ratios less one sum to 3.25; their logarithms are taken off.
    assert metrics["update_kl"].item() == pytest.approx((3.25 - sum(map(math.log, RATIOS.flatten().tolist()))) / 6)
    assert not any(value.requires_grad for value in metrics.values())


def test_dual_clip_bounds_the_loss_of_negative_advantages_alone_by_hand() -> None:
    # With c = 3 the last token's loss is min(4, 3), without a gradient; c = 1.4 reaches the one before it as well.
    loss, gradient, metrics = surrogate(dual_clip=3.0)
    torch.testing.assert_close(loss, torch.tensor([[-1.28, -1.25, -0.5], [0.8, 1.5, 3.0]], dtype=torch.float64))
    assert gradient[1].tolist() == pytest.approx([0.0, 1.5, 0.0])
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 6)
    loss, _, _ = surrogate(dual_clip=1.4)
    torch.testing.assert_close(loss, torch.tensor([[-1.28, -1.25, -0.5], [0.8, 1.4, 1.4]], dtype=torch.float64))


def test_the_surrogate_is_zero_outside_the_mask_and_counts_only_inside() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    loss, gradient, metrics = surrogate(mask=mask)
    torch.testing.assert_close(loss, torch.tensor([[-1.28, -1.25, -0.5], [0.8, 0.0, 0.0]], dtype=torch.float64))
    assert gradient[~mask].eq(0).all()
    assert metrics["ratio"].item() == pytest.approx(3.75 / 4)
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("dual_clip", [None, 1.2])
def test_surrogate_gradient_is_that_of_finite_differences(dual_clip: float | None) -> None:
    (logprobs, old, advantages), mask = ragged(3)
    assert torch.autograd.gradcheck(
        lambda x: clipped_surrogate(x, old, advantages, mask, 0.2, 0.28, dual_clip)[0], logprobs.requires_grad_()
    )


@pytest.mark.parametrize("dual_clip", [None, 1.2])
def test_surrogate_counts_no_padding(dual_clip: float | None) -> None:
    (logprobs, old, advantages), mask = ragged(3)
    assert_padding_is_nothing(
        lambda *x: clipped_surrogate(*x, 0.2, 0.28, dual_clip)[0].square().sum(), logprobs, old, advantages, mask
    )


@pytest.mark.parametrize("dual_clip", [1.0, 0.5, -3.0])
def test_a_dual_clip_that_is_not_above_one_is_refused(dual_clip: float) -> None:
    with pytest.raises(ValueError, match=f"dual_clip={dual_clip}: must be above 1"):
        surrogate(dual_clip)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (0.2, -0.1)])
def test_bounds_below_zero_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"clip_low={low}, clip_high={high}: must be at least 0"):
        clipped_surrogate(RATIOS, RATIOS, ADVANTAGES, ALL, low, high)


def test_metrics_over_sequences_by_hand() -> None:
    # Rows of 2, 1 and no tokens: ratios 1.5, 1.25; 0.5; and 1 where there is none. Clipped are 1.5 at A = 1 and 0.5 at
    # A = -1; update_kl of a token is its ratio less one less its logarithm.
    ratios = torch.tensor([[1.5, 1.25], [0.5, 9.0], [9.0, 9.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    old = torch.zeros_like(ratios)
    _, metrics = clipped_surrogate(ratios.log(), old, advantages, mask, 0.2, 0.28, metric_mean=sequence_mean)
    assert metrics["ratio"].item() == pytest.approx(((1.5 + 1.25) / 2 + 0.5 + 1) / 3)
    assert metrics["clip_fraction"].item() == pytest.approx((1 / 2 + 1 + 0) / 3)
    first = (0.5 - math.log(1.5) + 0.25 - math.log(1.25)) / 2
    assert metrics["update_kl"].item() == pytest.approx((first + -0.5 - math.log(0.5) + 0) / 3)


def test_ppo_at_ratio_one_is_the_mean_negative_advantage() -> None:
    logprobs, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, -1.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, metrics = ppo_policy_loss(logprobs, logprobs, advantages, mask, 0.2)
    assert loss.item() == pytest.approx(0.5)
    assert metrics["ratio"].item() == 1.0
    assert metrics["clip_fraction"].item() == 0.0
    assert metrics["update_kl"].item() == 0.0


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


def test_ppo_is_the_mean_over_counted_tokens_of_the_surrogate() -> None:
    (logprobs, old, advantages), mask = ragged(3)
    for options in ({}, {"clip_high": 0.4}, {"clip_high": 0.4, "dual_clip": 1.2}):
        settings = {"clip_high": 0.2, **options}
        per_token, wanted = clipped_surrogate(logprobs, old, advantages, mask, 0.2, **settings)
        loss, metrics = ppo_policy_loss(logprobs, old, advantages, mask, 0.2, **options)
        assert torch.equal(loss, masked_mean(per_token, mask))
        assert metrics == wanted


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


def test_a_value_range_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip_range=-0\.1: must be at least 0"):
        clipped_value_loss(RATIOS, RATIOS, RATIOS, ALL, -0.1)


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
