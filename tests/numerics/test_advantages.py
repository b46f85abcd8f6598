"""Credit assignment against hand-computed values. Dimensions: ``B`` sequences, ``R`` tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rft.ops.advantages import (
    gae,
    group_extremes,
    group_relative,
    leave_one_out,
    overlong_penalty,
    rewards_to_go,
    token_rewards,
)
from tests.numerics.ragged import assert_padding_is_nothing, longer, padded, ragged


def test_reward_lands_on_the_last_counted_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    kl = torch.tensor([[0.5, -0.25, 9.0], [1.0, 2.0, 3.0]])
    got = token_rewards(torch.tensor([10.0, 20.0]), kl, mask, 0.1)
    torch.testing.assert_close(got, torch.tensor([[-0.05, 10.025, 0.0], [-0.1, -0.2, 19.7]]))


def test_reward_lands_on_a_single_token_past_a_gap_and_nowhere_in_an_empty_row() -> None:
    mask = torch.tensor([[True, False, False], [True, False, True], [False, False, False]])
    got = token_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 3), math.nan).where(~mask, 0.0), mask, 0.1)
    assert got.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]


def test_token_rewards_count_no_padding() -> None:
    (kl,), mask = ragged(1)
    rewards = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert_padding_is_nothing(lambda kl, mask: token_rewards(rewards, kl, mask, 0.1).square().sum(), kl, mask)


def test_gae_by_hand() -> None:
    # gamma 0.9, lambda 0.8: delta_1 = 1 - 0.5 = 0.5; delta_0 = 0 + 0.9 * 0.5 - 0.2 = 0.25; A_0 = 0.25 + 0.72 * 0.5
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.tensor([[0.61, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.81, 1.0]]))


def test_gae_of_ragged_rows_by_hand() -> None:
    # The first row is that of the test above. In the second one token counts: A = 2 - 0.5, whatever stands behind it.
    rewards, values = torch.tensor([[0.0, 1.0], [2.0, 7.0]]), torch.tensor([[0.2, 0.5], [0.5, math.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.tensor([[0.61, 0.5], [1.5, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.81, 1.0], [2.0, 0.0]]))


def test_gae_at_lambda_one_is_reward_to_go_less_value_whatever_the_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    mask = torch.arange(6)[None] < torch.tensor([6, 3, 1, 5])[:, None]
    advantages, _ = gae(rewards, values, mask, 1.0, 1.0)
    kept = torch.where(mask, rewards, torch.zeros_like(rewards))
    to_go = kept.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, torch.where(mask, to_go - values, torch.zeros_like(values)))
    again, _ = gae(padded(rewards), padded(values), longer(mask), 1.0, 1.0)
    torch.testing.assert_close(again[:, :6], advantages)


def test_gae_at_lambda_zero_is_the_error_of_one_step() -> None:
    (rewards, values), mask = ragged(2)
    advantages, returns = gae(rewards, values, mask, 0.9, 0.0)
    after = torch.cat([values[:, 1:] * mask[:, 1:], torch.zeros(3, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(returns, (rewards + 0.9 * after) * mask)
    torch.testing.assert_close(advantages, (rewards + 0.9 * after - values) * mask)


def test_rewards_to_go_by_hand() -> None:
    # gamma 1/2: G_2 = 4, G_1 = 2 + 4/2 = 4, G_0 = 1 + 4/2 = 3; in the second row one token counts.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [8.0, math.nan, 16.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert rewards_to_go(rewards, mask, 0.5).tolist() == [[3.0, 4.0, 4.0], [8.0, 0.0, 0.0]]
    assert rewards_to_go(rewards, mask).tolist() == [[7.0, 6.0, 4.0], [8.0, 0.0, 0.0]]
    assert rewards_to_go(rewards, mask, 0.0).tolist() == [[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]]


def test_rewards_to_go_count_no_padding() -> None:
    (rewards,), mask = ragged(1)
    assert_padding_is_nothing(lambda x, mask: rewards_to_go(x, mask, 0.9).square().sum(), rewards, mask)
    assert torch.autograd.gradcheck(lambda x: rewards_to_go(x, mask, 0.9), rewards.requires_grad_())


# Group 7 has rewards 1, 3, 8: mean 4, deviations -3, -1, 4, sample variance (9 + 1 + 16) / 2 = 13. Group -2 has one.
REWARDS, GROUP = torch.tensor([1.0, 5.0, 3.0, 8.0]), torch.tensor([7, -2, 7, 7])


def test_group_relative_by_hand() -> None:
    centred = torch.tensor([-3.0, 0.0, -1.0, 4.0])
    torch.testing.assert_close(group_relative(REWARDS, GROUP, scale=False), centred)
    torch.testing.assert_close(group_relative(REWARDS, GROUP, scale=True), centred / math.sqrt(13))
    torch.testing.assert_close(group_relative(REWARDS, GROUP, scale=True, eps=1.0), centred / (math.sqrt(13) + 1))


def test_a_group_of_one_gets_nothing() -> None:
    for scale in (False, True):
        assert group_relative(torch.tensor([5.0]), torch.tensor([3]), scale=scale).tolist() == [0.0]


def test_leave_one_out_by_hand() -> None:
    # 1 - (3 + 8) / 2, 3 - (1 + 8) / 2, 8 - (1 + 3) / 2; in the other group 5 - 2 and 2 - 5.
    rewards, group = torch.tensor([1.0, 5.0, 3.0, 8.0, 2.0]), torch.tensor([7, -2, 7, 7, -2])
    torch.testing.assert_close(leave_one_out(rewards, group), torch.tensor([-4.5, 3.0, -1.5, 6.0, -3.0]))


def test_leave_one_out_names_the_group_that_has_no_others() -> None:
    with pytest.raises(ValueError, match=r"group -2 \(row 1\) has one member.*sample at least two"):
        leave_one_out(REWARDS, GROUP)


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "centred": lambda rewards, group: group_relative(rewards, group, scale=False),
    "scaled": lambda rewards, group: group_relative(rewards, group, scale=True),
    "leave_one_out": leave_one_out,
}


def plainly(name: str, rewards: list[float]) -> list[float]:
    """One group at a time, as the formulas stand in the papers."""
    n, mean = len(rewards), sum(rewards) / len(rewards)
    if name == "leave_one_out":
        return [r - (sum(rewards) - r) / (n - 1) for r in rewards]
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (n - 1)) + 1e-6 if name == "scaled" else 1.0
    return [(r - mean) / std for r in rewards]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_the_papers_formulas_in_every_group_however_the_rows_stand(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {11: 2, 0: 5, -4: 3, 2**40: 4}
    group = torch.tensor([g for g, n in sizes.items() for _ in range(n)])[torch.randperm(14, generator=generator)]
    rewards = torch.randn(14, generator=generator, dtype=torch.float64)
    got = BASELINES[name](rewards, group)
    for g in sizes:
        wanted = plainly(name, rewards[group == g].tolist())
        torch.testing.assert_close(got[group == g], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_nothing(name: str, dtype: torch.dtype) -> None:
    # 0.1 + 0.1 + 0.1 is not 3 * 0.1 in binary: a mean of them would leave a remainder, and scaling would blow it up.
    rewards = torch.tensor([0.1, -7.7, 0.1, 0.1, -7.7, -7.7], dtype=dtype)
    got = BASELINES[name](rewards, torch.tensor([0, 1, 0, 0, 1, 1]))
    assert got.dtype is dtype
    assert got.eq(0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_forgive_a_large_common_reward(name: str) -> None:
    rewards, group = torch.tensor([0.0, 0.25, 1.0, 0.5]), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(BASELINES[name](rewards + 2.0**20, group), BASELINES[name](rewards, group))


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_of_baselines_are_those_of_finite_differences(name: str) -> None:
    rewards = torch.tensor([1.0, 5.0, 3.0, 8.0, 2.0], dtype=torch.float64, requires_grad=True)
    group = torch.tensor([7, -2, 7, 7, -2])
    assert torch.autograd.gradcheck(lambda x: BASELINES[name](x, group), rewards)


def test_extremes_of_groups_in_order_of_appearance_with_ties_to_the_lowest_row() -> None:
    # Group 9 holds rows 0, 2, 3, 5 with rewards 1, 5, 0, 0; group 2 rows 1 and 4 with 5 and 5; group 4 row 6.
    rewards, group = torch.tensor([1.0, 5.0, 5.0, 0.0, 5.0, 0.0, -1.0]), torch.tensor([9, 2, 9, 9, 2, 9, 4])
    best, worst = group_extremes(rewards, group)
    assert best.tolist() == [2, 1, 6]
    assert worst.tolist() == [3, 1, 6]
    assert best.dtype is worst.dtype is torch.int64


def test_extremes_of_nothing_are_none() -> None:
    best, worst = group_extremes(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert best.shape == worst.shape == (0,)


def test_overlong_penalty_by_hand() -> None:
    # Limit 10, buffer 4: free up to 6 tokens, then a quarter a token, -1 at the limit and beyond.
    got = overlong_penalty(torch.tensor([1, 6, 7, 8, 10, 12]), limit=10, buffer=4)
    assert got.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert got.dtype is torch.float32


@pytest.mark.parametrize(("limit", "buffer"), [(10, 0), (10, 11), (0, 0)])
def test_a_buffer_that_does_not_fit_is_refused(limit: int, buffer: int) -> None:
    with pytest.raises(ValueError, match=f"buffer={buffer}, limit={limit}: the buffer must be"):
        overlong_penalty(torch.tensor([1]), limit, buffer)
