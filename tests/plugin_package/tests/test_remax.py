"""Remax keeps the rules of every algorithm, and computes what was computed by hand."""

from __future__ import annotations

import torch
from rft.testing import check_algorithm
from rft.types import Rollouts, Sequences

from rft_remax.remax import Config, Remax


def test_it_conforms() -> None:
    check_algorithm("remax").require()


def test_advantages_by_hand() -> None:
    """A response to each of two prompts, β = 0.5.

    KL: (−1 + 2) + (−1 + 1) = 1 and −2 + 1 = −1 nats; less KL and greedy reward: 3 − 0.5 − 2 and 1 + 0.5 − 0.5.
    """
    mask = torch.tensor([[True, True], [True, False]])
    ids = torch.zeros(2, 2, dtype=torch.long)
    rollouts = Rollouts(
        sequences=Sequences(ids, torch.ones_like(mask), ids, mask),
        logprobs=torch.tensor([[-1.0, -1.0], [-2.0, 0.0]]),
        rewards=torch.tensor([3.0, 1.0]),
        truncated=torch.tensor([False, False]),
        group=torch.tensor([7, 8]),
        ref_logprobs=torch.tensor([[-2.0, -1.0], [-1.0, 0.0]]),
        greedy_rewards=torch.tensor([2.0, 0.5]),
    )
    algorithm = Remax(Config(name="remax", kl_coef=0.5), torch.nn.Identity())  # prepare() asks no model
    expected = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    torch.testing.assert_close(algorithm.prepare(rollouts).advantages, expected)
