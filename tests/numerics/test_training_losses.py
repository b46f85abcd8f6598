"""The losses as they are trained, through a real backbone: padding counts nowhere, gradients are those of the loss.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from rft.algorithms.dpo import DPO
from rft.algorithms.dpo import Config as DPOConfig
from rft.algorithms.ppo import PPO
from rft.algorithms.ppo import Config as PPOConfig
from rft.config import SFTConfig
from rft.data.on_policy import widen
from rft.models.backbone import Backbone, PoolingEnum, Role
from rft.models.module import StepOfEachBatch
from rft.models.pretrained import LoraConfig
from rft.models.supervised import SupervisedFineTuning
from rft.rewards.learned import Config as RewardConfig
from rft.rewards.learned import RewardModelTraining
from rft.strategy import AcceleratorEnum, Strategy
from rft.strategy import Config as StrategyConfig
from rft.study.training import fit_shared
from rft.types import ComparisonBatch, ExampleBatch, PreferenceBatch, Rollouts, Sequences
from tests.numerics.backbones import EOS, VOCABULARY, make_backbone, make_model

LORA = LoraConfig(rank=4, top_layers=2)
FILLER = 9  # a token like any other: what stands outside the mask must not matter


def wider(seq: Sequences, more: int) -> Sequences:
    return widen(seq, seq.response_ids.shape[1] + more, FILLER)


def noise(mask: Tensor, seed: int) -> Tensor:
    return 0.2 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))


def supervised(seq: Sequences, more: int) -> tuple[Backbone, Tensor]:
    backbone = make_backbone("llama", LORA)
    module = SupervisedFineTuning(SFTConfig(), backbone, steps=1)
    return backbone, module.loss(ExampleBatch(wider(seq, more)))


def reward_model(pooling: PoolingEnum) -> Callable[[Sequences, int], tuple[Backbone, Tensor]]:
    def loss(seq: Sequences, more: int) -> tuple[Backbone, Tensor]:
        backbone = make_backbone("llama", LORA, (Role.reward,))
        module = RewardModelTraining(RewardConfig(pooling=pooling), backbone, steps=1)
        chosen, rejected, preference = torch.tensor([1]), torch.tensor([0]), torch.tensor([0.9])
        return backbone, module.loss(ComparisonBatch(wider(seq, more), chosen, rejected, preference))

    return loss


def dpo(seq: Sequences, more: int) -> tuple[Backbone, Tensor]:
    backbone = make_backbone("llama", LORA)
    module = DPO(DPOConfig(name="dpo", beta=0.5, label_smoothing=0.1), backbone)
    with torch.no_grad():
        ref = backbone.logprobs(Role.reference, wider(seq, more)).sum(-1)
    # Padded apart, as two batches of answers are.
    rows = slice(0, 1), slice(1, 2)
    chosen, rejected = wider(seq, more)[rows[1]], wider(seq, 2 * more)[rows[0]]
    pairs = PreferenceBatch(chosen, rejected, torch.ones(1), ref[rows[1]], ref[rows[0]])
    return backbone, module.loss(pairs).loss


def ppo(seq: Sequences, more: int) -> tuple[Backbone, Tensor]:
    """From rollouts to the loss, where policy and critic have moved since; outside the mask the rollouts hold 5."""
    backbone = make_backbone("llama", LORA, (Role.policy, Role.critic))
    # The value's clip is out of the way: half of its tokens would have no gradient.
    module = PPO(PPOConfig(name="ppo", vf_coef=0.5, value_clip_range=10.0), backbone)
    wide, mask = wider(seq, more), seq.response_mask
    with torch.no_grad():
        now = backbone.logprobs(Role.policy, seq), backbone.logprobs(Role.reference, seq), backbone.values(seq)
    old, ref, values = (
        pad(torch.where(mask, x + noise(mask, i), 5.0), (0, more), value=5.0) for i, x in enumerate(now)
    )
    rollouts = Rollouts(
        wide,
        old,
        torch.tensor([1.5, -0.5]),
        wide.truncated(EOS),
        torch.arange(2),
        ref,
        values,
        metrics={"rollout/kl": 1.0},
    )
    return backbone, module.loss(module.prepare(rollouts)).loss


LOSSES: Mapping[str, Callable[[Sequences, int], tuple[Backbone, Tensor]]] = {
    "supervised": supervised,
    "reward-mean": reward_model(PoolingEnum.mean),
    "reward-last": reward_model(PoolingEnum.last),
    "dpo": dpo,
    "ppo": ppo,
}


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_responses_padded_further_give_the_same_loss_and_gradient(name: str, sequences: Sequences) -> None:
    loss, padded = (LOSSES[name](sequences, more) for more in (0, 3))
    torch.testing.assert_close(padded[1], loss[1], rtol=1e-5, atol=1e-6)
    wanted, got = gradients(*loss), gradients(*padded)
    assert any(bool(g.ne(0).any()) for g in wanted.values())
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(got[parameter], gradient, rtol=1e-4, atol=1e-6)


def test_the_supervised_loss_by_hand(sequences: Sequences) -> None:
    # A model whose last hidden state is always the first unit vector, and whose head holds log p(v) there, has the
    # same known distribution everywhere: p(EOS) = 1/2, p(10) = 1/4, the other 62 tokens 1/248 each. Counted are 10 and
    # EOS in one response and four of the others in the second: (log 4 + log 2 + 4 log 248) / 6, a mean over tokens.
    model = make_model("gpt2")
    probabilities = torch.full((VOCABULARY,), 1 / 248)
    probabilities[EOS], probabilities[10] = 1 / 2, 1 / 4
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()[0] = 1.0
        model.lm_head.weight.zero_()[:, 0] = probabilities.log()
    module = SupervisedFineTuning(SFTConfig(), make_backbone("gpt2", LORA, model=model), steps=1)
    loss = module.loss(ExampleBatch(sequences))
    assert loss.item() == pytest.approx((math.log(4) + math.log(2) + 4 * math.log(248)) / 6, rel=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_supervised_gradient_is_that_of_finite_differences(seed: int, sequences: Sequences) -> None:
    backbone = make_backbone("llama", LORA)
    module = SupervisedFineTuning(SFTConfig(), backbone, steps=1)
    batch = ExampleBatch(sequences)
    gradient = gradients(backbone, module.loss(batch))
    generator = torch.Generator().manual_seed(seed)
    direction = {name: torch.randn(g.shape, generator=generator) for name, g in gradient.items()}
    parameters, h = dict(backbone.named_parameters()), 5e-4
    found = []
    with torch.no_grad():
        for steps in (1, -2):  # to +h, and from there to -h
            for name, d in direction.items():
                parameters[name].add_(d, alpha=steps * h)
            found.append(float(module.loss(batch)))
    slope = sum(float((g * direction[name]).sum()) for name, g in gradient.items())
    size = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    # Along a random direction the slope is of the gradient's own size; curvature and float32 leave 0.002 of that.
    assert (found[0] - found[1]) / (2 * h) == pytest.approx(slope, abs=0.005 * size)


STEPS: Mapping[
    str, tuple[Role, Callable[[Backbone], StepOfEachBatch], Callable[[Sequences], ExampleBatch | ComparisonBatch]]
] = {
    "supervised": (Role.policy, lambda b: SupervisedFineTuning(SFTConfig(), b, steps=3), ExampleBatch),
    "reward": (
        Role.reward,
        lambda b: RewardModelTraining(RewardConfig(), b, steps=3),
        lambda seq: ComparisonBatch(seq, torch.tensor([1, 2]), torch.tensor([0, 3]), torch.tensor([0.9, 0.6])),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_shared_stage_learns_the_same_in_microbatches(
    name: str, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, make, batch_of = STEPS[name]
    seq = sequences[torch.tensor([0, 1, 1, 0])]
    seq = replace(seq, response_ids=(seq.response_ids + torch.arange(4)[:, None]) % VOCABULARY)
    found = []
    for tokens in (1000, 1):
        backbone = make_backbone("llama", LORA, (role,))
        module = make(backbone)
        monkeypatch.setattr(Strategy, "shared_microbatch_tokens", lambda *_, tokens=tokens, **__: tokens)
        fit_shared(module, [batch_of(seq)] * 3, 3, "", Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu)))
        assert module.microbatch_tokens == tokens
        found.append((torch.cat([p.detach().flatten() for p in backbone.parameters_of(role)]), backbone.usage))
    (whole, usage), (parted, parted_usage) = found
    start = torch.cat([p.detach().flatten() for p in make_backbone("llama", LORA, (role,)).parameters_of(role)])
    assert (whole - start).norm() > 1e-3
    # Adam divides by the size of each gradient: where that is nought but for rounding, so is what it makes of it.
    assert (parted - whole).norm() < 0.02 * (whole - start).norm()
    assert parted_usage.flops == pytest.approx(usage.flops, rel=1e-9)
