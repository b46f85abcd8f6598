"""KTO on a real backbone, against sums over the log-softmax of two plain models, one response at a time.

Dimensions: ``B`` responses.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rft.algorithms.kto import KTO, Config
from rft.data.offline import to_sequences
from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig
from rft.types import UnpairedBatch
from tests.numerics.backbones import EOS, PAD, make_backbone, make_model

BETA, GOOD, BAD = 0.3, 1.5, 0.7
PROMPTS = [[5, 6], [7, 8, 9], [3], [4, 5, 11, 12], [20, 21]]
RESPONSES = [[10, EOS], [11, 12, 13, 14], [EOS], [15, 16, EOS], [30, 31, 32, EOS]]
OTHERS = [[40, 41, EOS], [42, EOS], [43, 44, 45, 46], [EOS], [47, 48]]
DESIRABLE = [True, False, False, True, True]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A policy that is far from its reference: log-ratios of some tenths of a nat."""
    made = make_backbone("llama", LoraConfig(rank=4, top_layers=2))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.mul_(10)
    return made


@pytest.fixture(scope="module")
def ratios(backbone: Backbone) -> tuple[list[float], list[float]]:
    """log π/π_ref of each response, and of each mismatched one, without padding, masks or adapters."""
    policy, reference = make_model("llama"), make_model("llama")
    backbone.merged_into(policy, Role.policy)
    own, other = (
        [total(policy, p, r) - total(reference, p, r) for p, r in zip(PROMPTS, some, strict=True)]
        for some in (RESPONSES, OTHERS)
    )
    return own, other


@torch.no_grad()
def total(model: PreTrainedModel, prompt: list[int], response: list[int]) -> float:
    """Σ_t log p(y_t | x, y_<t)."""
    logprobs = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(prompt) + t - 1, token]) for t, token in enumerate(response))


@torch.no_grad()
def make_batch(backbone: Backbone) -> UnpairedBatch:
    """All responses, padded."""
    seq, others = to_sequences(PROMPTS, RESPONSES, PAD), to_sequences(PROMPTS, OTHERS, PAD)
    ref, ref_others = (backbone.logprobs(Role.reference, s).sum(-1) for s in (seq, others))
    return UnpairedBatch(seq, torch.tensor(DESIRABLE), others, ref, ref_others)


def make_kto(backbone: Backbone) -> KTO:
    return KTO(Config(name="kto", beta=BETA, desirable_weight=GOOD, undesirable_weight=BAD), backbone)


def rows_of(signed: list[float], *, above: bool) -> Tensor:
    """The rows whose mismatched log-ratio is above 0, or below."""
    return torch.tensor([i for i, x in enumerate(signed) if (x > 0) is above])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_z0_is_the_mean_log_ratio_of_mismatched_pairs_over_the_step(
    backbone: Backbone, ratios: tuple[list[float], list[float]]
) -> None:
    batch, other = make_batch(backbone), ratios[1]
    above = rows_of(other, above=True)
    assert 0 < len(above) < len(batch)
    for rows in (above, torch.arange(len(batch))):
        wanted = sum(other[i] for i in rows.tolist()) / len(rows)
        kl = make_kto(backbone).prepare_step(batch[rows]).kl
        assert kl is not None
        assert not kl.requires_grad
        assert float(kl) == pytest.approx(max(0.0, wanted), abs=1e-5)
    assert sum(other[i] for i in above.tolist()) / len(above) > 0.1


def test_z0_is_never_below_zero(backbone: Backbone, ratios: tuple[list[float], list[float]]) -> None:
    below = rows_of(ratios[1], above=False)
    assert min(ratios[1][i] for i in below.tolist()) < -0.1
    kl = make_kto(backbone).prepare_step(make_batch(backbone)[below]).kl
    assert kl is not None
    assert float(kl) == 0.0


def test_the_loss_and_the_margin_by_hand(backbone: Backbone, ratios: tuple[list[float], list[float]]) -> None:
    own, other = ratios
    kto, batch = make_kto(backbone), make_batch(backbone)
    # z0 of the rows where it is above 0; the loss of all rows against it.
    z0 = kto.prepare_step(batch[rows_of(other, above=True)]).kl
    assert z0 is not None
    kl = float(z0)
    assert kl > 0.1
    out = kto.loss(replace(batch, kl=z0))
    losses = [
        GOOD * (1 - sigmoid(BETA * (r - kl))) if good else BAD * (1 - sigmoid(BETA * (kl - r)))
        for r, good in zip(own, DESIRABLE, strict=True)
    ]
    assert float(out.loss.detach()) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    signed = [BETA * r if good else -BETA * r for r, good in zip(own, DESIRABLE, strict=True)]
    assert float(out.metrics["margin"]) == pytest.approx(sum(signed) / len(signed), abs=1e-5)
    assert float(out.metrics["kl"]) == kl
