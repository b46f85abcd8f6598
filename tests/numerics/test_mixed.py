"""Weights trained in float32 and multiplied in bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedConfig,
)

from rft.errors import UserError
from rft.models.backbone import Backbone, Role
from rft.models.mixed import ShorterWeights
from rft.models.pretrained import LoraConfig
from rft.ops.logprobs import token_logprobs
from rft.types import Sequences
from tests.numerics.backbones import CONFIGS, LAYERS, SMALL, TOKENIZER, make_model

FULL = LoraConfig(enabled=False)


def trained_backbone(name: str) -> Backbone:
    return Backbone(make_model(name).to(torch.bfloat16), TOKENIZER, FULL, [Role.policy], [Role.policy])


@torch.no_grad()
def own_logits(model: Any, row: Sequences) -> torch.Tensor:
    """What a model itself says before each response token, [B, R, V]; no padding."""
    ids = torch.cat([row.prompt_ids, row.response_ids], 1)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[:, row.prompt_ids.shape[1] - 1 : -1]
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_the_trained_copy_computes_as_the_short_model_and_keeps_its_float32(name: str, sequences: Sequences) -> None:
    backbone = trained_backbone(name)
    policy = backbone.copies[Role.policy.value]
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    logprobs = backbone.logprobs(Role.policy, sequences)
    torch.testing.assert_close(logprobs, backbone.logprobs(Role.reference, sequences), rtol=0, atol=0)
    logprobs.sum().backward()
    for n, parameter in policy.named_parameters():
        assert isinstance(parameter, torch.nn.Parameter)
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, before[n])
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_short_model_summed_in_float32(name: str, sequences: Sequences) -> None:
    backbone = trained_backbone(name)
    short = copy.deepcopy(backbone.base).requires_grad_(True)
    wanted = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in short.named_parameters()}
    for row, start in ((0, 1), (1, 0)):  # where the prompt begins
        one = sequences[slice(row, row + 1)]
        one = Sequences(one.prompt_ids[:, start:], one.prompt_mask[:, start:], one.response_ids, one.response_mask)
        backbone.logprobs(Role.policy, one).sum().backward()
        short.zero_grad()
        ids = torch.cat([one.prompt_ids, one.response_ids], 1)
        states = short.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, 2 - start : -1]
        head = short.get_output_embeddings().weight
        token_logprobs(states, head, one.response_ids, one.response_mask).sum().backward()
        for n, parameter in short.named_parameters():
            wanted[n] += parameter.grad.float()
    for n, parameter in backbone.copies[Role.policy.value].named_parameters():
        assert torch.equal(parameter.grad, wanted[n]), n


def test_a_step_too_small_for_the_short_type_is_not_lost(sequences: Sequences) -> None:
    backbone = trained_backbone("llama")
    parameters = backbone.parameters_of(Role.policy)
    start = backbone.logprobs(Role.policy, sequences).detach()
    with torch.no_grad():
        for _ in range(64):
            for parameter in parameters:
                parameter += parameter.abs() * 2**-12  # bfloat16 tells 2**-8 apart
    with torch.no_grad():
        moved = backbone.logprobs(Role.policy, sequences)
    assert (moved - start).abs().max() > 1e-3


def test_the_copies_are_made_again_only_for_weights_that_have_changed(sequences: Sequences) -> None:
    backbone = trained_backbone("llama")
    shorter = backbone._shorter[Role.policy]
    backbone.logprobs(Role.policy, sequences)
    held = {id(p): (copy_, copy_._version) for p, (copy_, _) in shorter._copies.items()}
    backbone.logprobs(Role.policy, sequences)
    assert all(copy_._version == held[id(p)][1] for p, (copy_, _) in shorter._copies.items())
    changed = backbone.parameters_of(Role.policy)[0]
    with torch.no_grad():
        changed.mul_(2)
    backbone.logprobs(Role.policy, sequences)
    assert [id(p) for p, (copy_, _) in shorter._copies.items() if copy_._version != held[id(p)][1]] == [id(changed)]


@pytest.mark.parametrize("way", [{}, {"foreach": True}, {"fused": True}])
def test_every_way_of_stepping_is_seen(way: dict[str, bool], sequences: Sequences) -> None:
    backbone = trained_backbone("llama")
    optimizer = torch.optim.AdamW(backbone.parameters_of(Role.policy), lr=0.1, **way)
    before = backbone.logprobs(Role.policy, sequences)
    before.sum().backward()
    optimizer.step()
    after = backbone.logprobs(Role.policy, sequences)
    assert (before.sum() - after.sum()) > 1
    policy = backbone.copies[Role.policy.value].to(torch.bfloat16)
    alone = Backbone(policy, TOKENIZER, FULL, [])
    torch.testing.assert_close(after, alone.logprobs(Role.reference, sequences), rtol=0, atol=0)


def test_a_tied_matrix_has_one_copy_and_one_gradient(sequences: Sequences) -> None:
    backbone = trained_backbone("llama")
    policy = backbone.copies[Role.policy.value]
    tied = policy.get_input_embeddings().weight
    assert tied is policy.get_output_embeddings().weight
    backbone.logprobs(Role.policy, sequences).sum().backward()
    seen = torch.zeros(len(tied), dtype=torch.bool)
    seen[torch.cat([sequences.prompt_ids, sequences.response_ids], 1).unique()] = True
    assert tied.grad is not None
    assert tied.grad[~seen].abs().max() > 0  # as projection
    assert tied.grad.shape == tied.shape
    assert tied is policy.get_output_embeddings().weight


def test_bounded_logits_are_bounded_in_log_probs(sequences: Sequences) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**SMALL, **LAYERS, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(50)
    row = sequences[slice(1, 2)]
    backbone = Backbone(model, TOKENIZER, LoraConfig(rank=2), [Role.policy])
    wanted = own_logits(model, row).log_softmax(-1).gather(-1, row.response_ids[..., None])[..., 0]
    torch.testing.assert_close(backbone.logprobs(Role.reference, row), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [CohereConfig(**SMALL, **LAYERS, logit_scale=0.25), GraniteConfig(**SMALL, **LAYERS, logits_scaling=8.0)],
    ids=["multiplied", "divided"],
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scaled_logits_are_scaled_in_log_probs_and_entropy(
    config: PreTrainedConfig, temperature: float, sequences: Sequences
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    row = sequences[slice(1, 2)]
    backbone = Backbone(model, TOKENIZER, LoraConfig(rank=2), [Role.policy])
    wanted = (own_logits(model, row) / temperature).log_softmax(-1)
    chosen = wanted.gather(-1, row.response_ids[..., None])[..., 0]
    torch.testing.assert_close(backbone.logprobs(Role.reference, row, temperature), chosen, rtol=1e-5, atol=1e-5)
    entropy = -(wanted.exp() * wanted).sum(-1)
    torch.testing.assert_close(backbone.entropy(Role.reference, row, temperature), entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_that_are_more_than_a_product_are_refused(dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, **LAYERS)).to(dtype)
    Backbone(copy.deepcopy(model), TOKENIZER, LoraConfig(rank=2), [Role.policy])
    model.config.logit_scale = 0.8  # which its class knows nothing of
    with pytest.raises(UserError, match="LlamaForCausalLM makes more of its logits"):
        Backbone(model, TOKENIZER, LoraConfig(rank=2), [Role.policy])


def test_a_bias_of_the_logits_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(PhiConfig(**SMALL, **LAYERS))
    with pytest.raises(UserError, match="PhiForCausalLM adds a bias to its logits"):
        Backbone(model, TOKENIZER, LoraConfig(rank=2), [Role.policy])


def test_without_its_reference_a_copy_multiplies_in_the_reference_memory(sequences: Sequences) -> None:
    role = [Role.reward]
    whole = Backbone(make_model("llama").to(torch.bfloat16), TOKENIZER, FULL, role, role)
    spent = Backbone(make_model("llama").to(torch.bfloat16), TOKENIZER, FULL, role, role, reference=False)
    optimizers = [torch.optim.AdamW(b.parameters_of(Role.reward), lr=0.01, fused=True) for b in (whole, spent)]
    for _ in range(2):
        scores = [b.scores(sequences) for b in (whole, spent)]
        torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=0)
        for one, optimizer in zip(scores, optimizers, strict=True):
            optimizer.zero_grad()
            one.sum().backward()
            optimizer.step()
    spent.scores(sequences)
    places = {p.data_ptr() for p in spent.base.parameters()}
    multiplied = [one for one, _ in spent._shorter[Role.reward]._copies.values()]
    assert {one.data_ptr() for one in multiplied} == places
    trained = spent.copies[Role.reward.value].get_input_embeddings().weight
    assert torch.equal(spent.base.get_input_embeddings().weight, trained.to(torch.bfloat16))
    with pytest.raises(RuntimeError, match="declares reads_reference = True"):
        spent.hidden(Role.reference, sequences)
    # Weights of another type are not taken for copies.
    mixed = make_model("llama").to(torch.bfloat16)
    mixed.get_decoder().norm.float()
    short = ShorterWeights(copy.deepcopy(mixed).float(), torch.bfloat16, mixed)
    with short.in_place():
        assert {one.dtype for one, _ in short._copies.values()} == {torch.bfloat16}
    # Adapters leave the base as it is: there is nothing to spare.
    adapted = Backbone(make_model("llama"), TOKENIZER, LoraConfig(rank=4), role, role, reference=False)
    assert torch.isfinite(adapted.hidden(Role.reference, sequences)).all()
