"""What PPO makes of rollouts of a real backbone: token rewards, whitening, the KL controller; the critic's start.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.algorithms.ppo import PPO, Config
from rft.callbacks.training import KeepLast
from rft.checkpoint import last_good
from rft.data.on_policy import OnPolicyData, RolloutStream
from rft.models.backbone import PoolingEnum, Role
from rft.models.pretrained import LoraConfig
from rft.ops.kl import sequence_kl
from rft.rewards.base import Standardised
from rft.rewards.learned import Config as RewardConfig
from rft.rewards.learned import LearnedReward
from rft.rollout import RolloutEngine
from rft.strategy import AcceleratorEnum, PrecisionEnum, Strategy
from rft.strategy import Config as StrategyConfig
from rft.study.training import quiet
from rft.types import Rollouts, Sequences
from tests.numerics.backbones import EOS, PAD, make_backbone, make_model

LORA = LoraConfig(rank=4, top_layers=2)
REWARDS = torch.tensor([1.5, -0.7])


def make_ppo(**settings: Any) -> PPO:
    return PPO(Config(name="ppo", **settings), make_backbone("llama", LORA, (Role.policy, Role.critic)))


@torch.no_grad()
def rollouts_of(ppo: PPO, seq: Sequences) -> Rollouts:
    """What the stream makes of the sequences: the first ends with EOS, the second is truncated."""
    backbone = ppo.backbone
    logprobs, ref = (backbone.logprobs(role, seq) for role in (Role.policy, Role.reference))
    kl = float(sequence_kl(logprobs, ref, seq.response_mask).mean())
    truncated = seq.truncated(backbone.eos_id)
    assert truncated.tolist() == [False, True]
    values = backbone.values(seq)
    return Rollouts(seq, logprobs, REWARDS, truncated, torch.arange(2), ref, values, metrics={"rollout/kl": kl})


def token_rewards_of(seq: Sequences, **settings: Any) -> tuple[Tensor, Rollouts]:
    """The reward that PPO sees at each token, [B, R]: at gamma 0 a return is nothing else."""
    ppo = make_ppo(gamma=0.0, **settings)
    rollouts = rollouts_of(ppo, seq)
    returns = ppo.prepare(rollouts).returns
    assert returns is not None
    return returns, rollouts


def test_each_token_pays_for_its_kl_and_the_last_counted_one_gets_the_reward(sequences: Sequences) -> None:
    got, rollouts = token_rewards_of(sequences, kl_coef=0.3, truncation_penalty=0.0)
    assert rollouts.ref_logprobs is not None
    wanted = -0.3 * (rollouts.logprobs - rollouts.ref_logprobs)
    assert wanted[sequences.response_mask].abs().min() > 1e-4  # the adapters do something
    wanted[0, 1] += 1.5
    wanted[1, 3] -= 0.7
    torch.testing.assert_close(got, wanted)
    assert got[0, 2:].tolist() == [0.0, 0.0]


def test_the_penalty_lands_on_the_last_counted_token_of_truncated_responses_alone(sequences: Sequences) -> None:
    with_penalty, _ = token_rewards_of(sequences, truncation_penalty=0.5)
    without, _ = token_rewards_of(sequences, truncation_penalty=0.0)
    torch.testing.assert_close(with_penalty - without, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -0.5]]))


def test_undiscounted_the_first_return_is_the_reward_less_the_sequences_kl(sequences: Sequences) -> None:
    ppo = make_ppo(gamma=1.0, lam=1.0, kl_coef=0.3, truncation_penalty=0.5)
    rollouts = rollouts_of(ppo, sequences)
    batch = ppo.prepare(rollouts)
    assert batch.returns is not None
    assert rollouts.ref_logprobs is not None
    kl = sequence_kl(rollouts.logprobs, rollouts.ref_logprobs, sequences.response_mask)
    torch.testing.assert_close(batch.returns[:, 0], torch.tensor([1.5, -0.7 - 0.5]) - 0.3 * kl)


def test_whitening_scales_the_counted_advantages_and_leaves_the_returns(sequences: Sequences) -> None:
    found = []
    for whiten in (False, True):
        ppo = make_ppo(whiten_advantages=whiten)
        found.append(ppo.prepare(rollouts_of(ppo, sequences)))
    plain, white = (batch.advantages[sequences.response_mask] for batch in found)
    assert len(plain) == 6
    torch.testing.assert_close(white, (plain - plain.mean()) / plain.std(correction=0))
    assert found[1].advantages[~sequences.response_mask].eq(0).all()
    assert not torch.allclose(plain, white, atol=0.1)
    assert found[0].returns is not None
    assert found[1].returns is not None
    assert torch.equal(found[0].returns, found[1].returns)


# beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) * rollouts / horizon), with target 4, 20 rollouts, horizon 100.
@pytest.mark.parametrize(
    ("kl", "factor"),
    [(4.0, 1.0), (4.4, 1.02), (3.6, 0.98), (4.8, 1.04), (40.0, 1.04), (3.2, 0.96), (0.0, 0.96), (-1.0, 0.96)],
)
def test_the_controller_corrects_by_the_relative_error_and_at_most_by_a_fifth(
    kl: float, factor: float, sequences: Sequences
) -> None:
    ppo = make_ppo(kl_coef=0.1, kl_target=4.0, kl_horizon=100, prompts_per_iteration=10, samples_per_prompt=2)
    rollouts = replace(rollouts_of(ppo, sequences), metrics={"rollout/kl": kl})
    for times in (1, 2):
        ppo.prepare(rollouts)
        assert float(ppo.kl_coef) == pytest.approx(0.1 * factor**times, rel=1e-9)


def test_without_a_target_the_coefficient_stays(sequences: Sequences) -> None:
    ppo = make_ppo(kl_coef=0.1, kl_horizon=1)
    ppo.prepare(replace(rollouts_of(ppo, sequences), metrics={"rollout/kl": 40.0}))
    assert float(ppo.kl_coef) == 0.1


def test_rollouts_are_paid_by_the_coefficient_before_the_controllers_step(sequences: Sequences) -> None:
    steered, _ = token_rewards_of(sequences, kl_coef=0.3, kl_target=1e-3, kl_horizon=10)
    fixed, _ = token_rewards_of(sequences, kl_coef=0.3)
    assert torch.equal(steered, fixed)


def test_the_coefficient_goes_on_from_a_checkpoint_where_it_stood(tmp_path: Path) -> None:
    strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, precision=PrecisionEnum.fp32))
    horizon, target, rollouts = 8, 1e-3, 4
    quiet()

    def run(epochs: int) -> PPO:
        ppo = make_ppo(kl_coef=0.1, kl_target=target, kl_horizon=horizon, prompts_per_iteration=rollouts, minibatches=2)
        engine = RolloutEngine(make_model("llama"), EOS, PAD)
        reward = LearnedReward(RewardConfig(), ppo.backbone)
        stream = RolloutStream(ppo, engine, reward, [[5, 6], [7, 8, 9], [3], [4, 5]], response_tokens=4, seed=0)
        last = last_good(tmp_path, lambda _: None)
        trainer = strategy.trainer(epochs=epochs, root=tmp_path, callbacks=[KeepLast(tmp_path)])
        trainer.fit(ppo, datamodule=OnPolicyData(stream), ckpt_path=last, weights_only=True if last else None)
        return ppo

    wanted = 0.1
    for epochs in (1, 2):  # the second goes on from the first one's checkpoint, in a new module
        ppo = run(epochs)
        error = ppo.rollout_metrics["rollout/kl"] / target - 1
        wanted *= 1 + min(max(error, -0.2), 0.2) * rollouts / horizon
        assert wanted != pytest.approx(0.1)
        assert float(ppo.kl_coef) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("pooling", PoolingEnum)
def test_the_critic_starts_as_the_reward_model_in_the_units_of_the_standardised_score(
    pooling: PoolingEnum, sequences: Sequences
) -> None:
    backbone = make_backbone("llama", LORA, (Role.policy, Role.critic))
    with torch.no_grad():
        backbone.heads["reward"].bias.fill_(0.3)  # as training leaves it; a new one is zero
    reward = Standardised(LearnedReward(RewardConfig(pooling=pooling), backbone), mean=0.7, std=2.5)
    score = reward.score(sequences)

    reward.start_critic()

    assert torch.equal(reward.score(sequences), score)
    with torch.no_grad():
        of_reward = backbone.heads["reward"](backbone.hidden(Role.reward, sequences))[..., 0]
        of_critic = backbone.heads["critic"](backbone.hidden(Role.critic, sequences))[..., 0]
        values = backbone.values(sequences)
    per_token = (of_reward - 0.7) / 2.5
    torch.testing.assert_close(of_critic, per_token)
    # Prompts of three columns: the state before response token t is read at column 2 + t.
    torch.testing.assert_close(values, per_token[:, 2:6] * sequences.response_mask)
    if pooling is PoolingEnum.mean:
        # Counted are columns 1 to 4 of the first, two prompt and two response tokens, and all seven of the second.
        wanted = torch.stack([of_critic[0, 1:5].mean(), of_critic[1].mean()])
    else:
        wanted = torch.stack([of_critic[0, 4], of_critic[1, 6]])
    torch.testing.assert_close(score, wanted)
