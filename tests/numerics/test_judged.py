"""Responses without a score teach nothing and leave the others' baselines alone; labels of fresh pairs by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.algorithms import grpo, online_dpo, online_feedback, ppo, raft, reinforce_pp, rloo
from rft.data.judged import leave_out_unscored
from rft.errors import UserError
from rft.feedback.base import Answer, Feedback, Labels
from rft.ops.advantages import fill_missing, group_relative, leave_one_out, pairs_in_groups
from rft.testing.world import SAMPLES, TokenFeedback, TokenReward, World
from rft.types import OnPolicyBatch, PreferenceBatch, Rollouts, Sequences

NAN = float("nan")


def test_a_missing_reward_is_the_mean_of_its_groups_others() -> None:
    rewards = torch.tensor([1.0, NAN, 4.0, 2.0, NAN, 3.0])  # group 7: 1, NaN, 3; group 2: 4, 2; group 5: NaN
    got = fill_missing(rewards, torch.tensor([7, 7, 2, 2, 5, 7]))
    assert got.tolist() == [1.0, 2.0, 4.0, 2.0, 0.0, 3.0]


def test_the_mean_of_equal_rewards_is_none_better() -> None:
    equal = torch.tensor([0.1, 0.1, 0.1, NAN], dtype=torch.float64)
    assert fill_missing(equal, torch.zeros(4, dtype=torch.int64)).eq(0.1).all()


def test_who_is_not_counted_is_no_member_of_its_group() -> None:
    # Counted of group 0: 1, 3, 8; alone in group 1: 5.
    rewards, group = torch.tensor([1.0, 99.0, 3.0, 8.0, 5.0, -7.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    counted = torch.tensor([True, False, True, True, True, False])
    assert leave_one_out(rewards, group, counted).tolist() == [-4.5, 0.0, -1.5, 6.0, 0.0, 0.0]
    assert group_relative(rewards, group, counted, scale=False).tolist() == [-3.0, 0.0, -1.0, 4.0, 0.0, 0.0]
    # (9 + 1 + 16) / 2 is the sample variance.
    scaled = group_relative(rewards, group, counted, scale=True, eps=1e-12)[:4]
    torch.testing.assert_close(scaled, torch.tensor([-3.0, 0.0, -1.0, 4.0]) / 13**0.5)


def test_responses_are_paired_two_by_two_within_their_group() -> None:
    first, second = pairs_in_groups(torch.tensor([4, 4, 1, 4, 1, 4]))
    assert (first.tolist(), second.tolist()) == ([0, 3, 2], [1, 5, 4])
    with pytest.raises(ValueError, match="group 1 has 3 rows"):
        pairs_in_groups(torch.tensor([4, 1, 1, 4, 1]))


class Unreadable(TokenReward):
    """No score for the last response to every prompt, or for more."""

    may_lack = True

    def __init__(self, lost: int = 1) -> None:
        super().__init__()
        self.lost, self.seen = lost, 0

    def score(self, sequences: Sequences) -> Tensor:
        rows = torch.arange(self.seen, self.seen + len(sequences)) % SAMPLES
        self.seen += len(sequences)
        return torch.where(rows < SAMPLES - self.lost, super().score(sequences), NAN)


GROUPED: list[tuple[Any, Any]] = [(grpo.GRPO, grpo.Config), (rloo.RLOO, rloo.Config), (raft.RAFT, raft.Config)]
ALL: list[tuple[Any, Any]] = [
    *GROUPED,
    (ppo.PPO, ppo.Config),
    (reinforce_pp.ReinforcePP, reinforce_pp.Config),
    (online_dpo.OnlineDPO, online_dpo.Config),
]


def collected(found: Any, config: Any, lost: int = 1) -> tuple[World, Rollouts]:
    world = World(found, config(name="x"), nudge=0.1)
    stream = world.stream()
    stream.reward = Unreadable(lost)
    return world, stream.collect(0)


@pytest.mark.parametrize(("found", "config"), ALL, ids=lambda x: x.__module__.rpartition(".")[2])
def test_an_unjudged_response_has_no_part_in_the_update(found: Any, config: Any) -> None:
    world, rollouts = collected(found, config)
    lost = rollouts.sequences.lengths == 0
    assert int(lost.sum()) == rollouts.metrics["rollout/unjudged"] == len(rollouts) // SAMPLES
    assert rollouts.rewards.isfinite().all()
    batch = world.algorithm.assign_credit(rollouts)
    gradient = world.gradient([batch])
    assert gradient.abs().max() > 0
    # Whatever it says, and however likely it was, nothing changes.
    changed = torch.where(lost[:, None], torch.full_like(rollouts.sequences.response_ids, 5), 0)
    other = dataclasses.replace(
        rollouts.sequences, response_ids=torch.where(lost[:, None], changed, rollouts.sequences.response_ids)
    )
    again = world.gradient([world.algorithm.assign_credit(dataclasses.replace(rollouts, sequences=other))])
    torch.testing.assert_close(again, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("found", "config"), GROUPED, ids=lambda x: x.__module__.rpartition(".")[2])
def test_the_others_get_what_they_would_get_without_it(found: Any, config: Any) -> None:
    world, rollouts = collected(found, config)
    kept = rollouts.sequences.lengths > 0
    prepare = world.algorithm.prepare
    whole, alone = prepare(rollouts), prepare(rollouts[kept.nonzero()[:, 0]])
    assert isinstance(whole, OnPolicyBatch)
    assert isinstance(alone, OnPolicyBatch)
    mine = whole.advantages if len(whole) != len(rollouts) else whole.advantages[kept]
    torch.testing.assert_close(mine, alone.advantages, rtol=1e-12, atol=1e-12)


def test_an_iteration_that_is_mostly_unreadable_stops_in_one_line() -> None:
    with pytest.raises(UserError, match="24 of 32 verdicts on the responses of an iteration could not be read"):
        collected(rloo.RLOO, rloo.Config, lost=3)


def test_rewards_that_are_all_there_are_left_as_they_are() -> None:
    rollouts = World(rloo.RLOO, rloo.Config(name="x")).rollouts()
    assert leave_out_unscored(rollouts) is rollouts


class HalfRead(Feedback):
    """Every second label is excluded."""

    def label(self, answers: Sequence[Answer], pairs: Any) -> Labels:
        found = TokenFeedback().label(answers, pairs)
        found.preference[1::2] = NAN
        return found


def test_labels_of_fresh_pairs_and_what_is_excluded() -> None:
    world = World(online_feedback.OnlineFeedback, online_feedback.Config(name="x"))
    stream = world.stream()
    stream.feedback = HalfRead()
    rollouts = stream.collect(0)
    assert rollouts.preferences is not None
    pairs = rollouts.preferences.view(-1, 2)
    torch.testing.assert_close(pairs.sum(1), torch.ones(len(pairs), dtype=pairs.dtype))
    assert pairs[1::2].eq(0.5).all()
    assert rollouts.metrics["rollout/excluded"] == len(pairs) // 2
    assert world.backbone.usage.labels == len(pairs)
    batch = world.algorithm.assign_credit(rollouts)
    assert isinstance(batch, PreferenceBatch)
    assert not batch.decided[1::2].any()
    whole = TokenFeedback()
    stream.feedback = whole
    again = stream.collect(0)
    assert again.preferences is not None
    # By hand: σ of the difference of the mean values of the tokens.
    scores = TokenReward().score(
        dataclasses.replace(again.sequences, prompt_ids=torch.zeros_like(again.sequences.prompt_ids))
    )
    wanted = torch.sigmoid(scores.view(-1, 2)[:, 0] - scores.view(-1, 2)[:, 1])
    torch.testing.assert_close(again.preferences.view(-1, 2)[:, 0], wanted)
