"""The decode loop over a model's parts against ``generate``, its full forward pass and the loop over its own forward.

Dimensions: ``B`` sequences, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from rft.models.backbone import Role
from rft.models.pretrained import LoraConfig
from rft.ops.products import packs
from rft.rollout import RolloutEngine, Truncation, decoding, pad_prompts, probe, uniforms
from rft.rollout.decoding import Asked, Decoding
from rft.rollout.probe import magnified
from rft.rollout.reference import decode_by_forward
from rft.rollout.structure import Product
from rft.types import Sequences
from tests.numerics.backbones import make_backbone

EOS, PAD, VOCABULARY = 2, 0, 48
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
LAYERS: dict[str, Any] = {
    **{"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}
WINDOW: dict[str, Any] = {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}
KNOWN = {
    "llama": LlamaConfig(**SMALL, **LAYERS, tie_word_embeddings=True),
    "llama-biased": LlamaConfig(**SMALL, **LAYERS, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama-scaled-positions": LlamaConfig(
        **SMALL, **LAYERS, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    ),
    "mistral": MistralConfig(**SMALL, **LAYERS, sliding_window=5),
    "qwen2": Qwen2Config(**SMALL, **LAYERS, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SMALL, **LAYERS, head_dim=8),
    "gpt2": GPT2Config(**SMALL, n_layer=3, n_embd=32, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True),
    "gemma": GemmaConfig(**SMALL, **LAYERS, head_dim=8),
    "gemma2": Gemma2Config(**SMALL, **LAYERS, **WINDOW, attn_logit_softcapping=2.0, final_logit_softcapping=6.0),
    "gemma3": Gemma3TextConfig(
        **SMALL, **LAYERS, **WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
}
UNKNOWN = {
    "other multipliers": GraniteConfig(**SMALL, **LAYERS, residual_multiplier=0.5),
    "a layer without positions": SmolLM3Config(**SMALL, **LAYERS, no_rope_layers=[1, 0, 1]),
    "other norms": Olmo2Config(**SMALL, **LAYERS),
    "other parts": GPTNeoXConfig(
        **SMALL, num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4
    ),
    "positions by length": LlamaConfig(
        **SMALL, **LAYERS, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [5, 6, 7, 8, 9, 10, 11], [14, 15, 16, 17], [12, 13], [18, 19, 20, 21]]
TOKENS = 14
CPU = torch.device("cpu")


def make_model(config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from uniform and from all-zero biases, so that a wrong position, mask or bias changes the answer.
            parameter.mul_(4).add_(0.1 * torch.randn(parameter.shape))
    return model


def make_engine(name: str, dtype: torch.dtype = torch.float32) -> RolloutEngine:
    engine = RolloutEngine(make_model(KNOWN[name], dtype), EOS, PAD)
    assert engine.structure is not None
    return engine


def by_forward(engine: RolloutEngine, numbers: Tensor, temperature: float, truncation: Truncation) -> list[list[int]]:
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    with torch.inference_mode():
        drawn = decode_by_forward(engine.model, Asked(ids, mask, numbers, temperature, truncation, EOS, PAD))
    return [row[counted].tolist() for row, counted in zip(drawn.ids, drawn.counted, strict=True)]


def responses(seq: Sequences) -> list[list[int]]:
    return [row[counted].tolist() for row, counted in zip(seq.response_ids, seq.response_mask, strict=True)]


@pytest.mark.parametrize("name", KNOWN)
def test_greedy_tokens_equal_those_of_generate(name: str) -> None:
    engine = make_engine(name)
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    wanted = engine.model.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=TOKENS, do_sample=False, pad_token_id=PAD
    )[:, ids.shape[1] :]
    got = engine.generate(ids, mask, torch.zeros(len(ids), TOKENS), temperature=0.0)
    width = got.response_ids.shape[1]
    assert torch.equal(got.response_ids, wanted[:, :width])
    assert bool((wanted[:, width:] == PAD).all())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("truncation", [Truncation(), Truncation(top_k=20, top_p=0.9)])
def test_the_same_numbers_give_the_tokens_of_the_models_own_forward(name: str, truncation: Truncation) -> None:
    """In double precision but for Gemma 2, whose padded double-precision forward gives numbers that are none."""
    engine = make_engine(name, torch.float32 if name == "gemma2" else torch.float64)
    numbers = uniforms(len(PROMPTS), TOKENS, 4)
    got = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.3, truncation)
    assert responses(got) == by_forward(engine, numbers, 1.3, truncation)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4), (torch.bfloat16, 0.4)], ids=str
)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_logprobs_are_those_of_a_full_forward_pass_while_rows_are_dropped(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    engine = make_engine(name, dtype)
    assert engine.structure is not None
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    fed = torch.randint(3, VOCABULARY, (len(ids), 6), generator=torch.Generator().manual_seed(1))
    wanted = []
    for prompt, tokens in zip(PROMPTS, fed.tolist(), strict=True):
        whole = engine.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 :]
        wanted.append(whole.double().log_softmax(-1))
    drop = {1: {0}, 3: {4, 5}, 4: {1, 3}}  # the longest prompt first; then slots from behind and from the middle
    rows = torch.arange(len(ids))
    with torch.inference_mode():
        decoder = Decoding(engine.structure, ids, mask, 6)
        logits = decoder.prefill()
        for t in range(6):
            expected = torch.stack([wanted[int(row)][t] for row in rows])
            torch.testing.assert_close(logits.double().log_softmax(-1), expected, atol=tolerance, rtol=0)
            if t in drop:
                rows = rows[decoder.keep(torch.tensor([int(row) not in drop[t] for row in rows]))]
            logits = decoder.step(fed[rows, t])
    assert rows.tolist() == [2]


def test_rows_that_end_early_are_dropped_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("llama", torch.float64)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(64)]
    numbers = uniforms(64, TOKENS, 9)
    sizes: list[int] = []
    step = Decoding.step
    monkeypatch.setattr(Decoding, "step", lambda self, tokens: (sizes.append(self.slots), step(self, tokens))[1])
    together = responses(engine.generate(*pad_prompts(prompts, PAD, CPU), numbers, 2.0))
    lengths = [len(response) for response in together]
    assert len(set(lengths)) > 3
    assert sizes[0] > sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    for row in (0, 7, 31, 63):
        alone = engine.generate(*pad_prompts([prompts[row]], PAD, CPU), numbers[row : row + 1], 2.0)
        assert responses(alone) == [together[row]]


def test_a_prompt_shared_by_rows_is_passed_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("qwen2", torch.float64)
    numbers = uniforms(len(PROMPTS), TOKENS, 2)
    shared = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0)
    counted, engine.usage.flops = engine.usage.flops, 0.0
    parts = [
        engine.generate(*pad_prompts([prompt], PAD, CPU), numbers[i : i + 1], 1.0) for i, prompt in enumerate(PROMPTS)
    ]
    assert responses(shared) == [responses(part)[0] for part in parts]
    again = engine.flops.decoding(torch.tensor([7, 2]), torch.tensor([1, 1]))  # the second pass of two prompts
    assert engine.usage.flops == pytest.approx(counted + again, rel=1e-12)
    assert engine.usage.generated_tokens == 2 * sum(map(len, responses(shared)))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_prefill_in_several_passes_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, numbers = make_engine(name), uniforms(len(PROMPTS), TOKENS, 2)
    whole = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 6)  # two prompts, one, and one that is longer than that
    parts = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0)
    assert responses(parts) == responses(whole)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_engine_knows_whether_its_weights_are_those_of_the_start(dtype: torch.dtype, lora: bool) -> None:
    model = make_model(KNOWN["llama"], dtype)
    engine = RolloutEngine(model, EOS, PAD)
    backbone = make_backbone("llama", LoraConfig(enabled=lora, rank=4, alpha=64), model=model)
    adapters = [p for name, p in backbone.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for parameter in adapters:
            parameter.zero_()
    seen = [engine.at_start]
    engine.sync(backbone)
    assert engine.structure is not None  # which joins matrices
    seen.append(engine.at_start)
    with torch.no_grad():
        backbone.parameters_of(Role.policy)[-1].add_(0.3)
    engine.sync(backbone)
    seen.append(engine.at_start)
    engine.rest()
    assert [*seen, engine.at_start] == [True, True, False, True]


@pytest.mark.parametrize("at_once", [decoding.PREFILL_TOKENS, 6])
@pytest.mark.parametrize("name", KNOWN)
def test_what_the_lowest_layers_gave_while_decoding_is_what_they_give_in_a_pass(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every counted token, also the last one of a response, which decoding has no need to pass."""
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", at_once)
    engine, lora = make_engine(name), LoraConfig(rank=2, top_layers=1)
    backbone = make_backbone("", lora, model=make_model(KNOWN[name]))
    numbers, prompts = uniforms(18, TOKENS, 9), PROMPTS * 3
    plain = engine.generate(*pad_prompts(prompts, PAD, CPU), numbers, 6.0)
    engine.usage.flops = 0.0
    seq = engine.generate(*pad_prompts(prompts, PAD, CPU), numbers, 6.0, depth=2)
    assert responses(seq) == responses(plain)
    assert len(set(map(len, responses(seq)))) >= 3  # rows end at different times
    wanted = backbone.with_trunk(plain)
    assert seq.trunk is not None
    assert wanted.trunk is not None
    counted = torch.cat([seq.prompt_mask, seq.response_mask], 1)
    torch.testing.assert_close(seq.trunk[counted], wanted.trunk[counted], atol=1e-3, rtol=1e-4)
    assert backbone.with_trunk(seq) is seq
    torch.testing.assert_close(
        backbone.logprobs(Role.policy, seq), backbone.logprobs(Role.policy, wanted), atol=1e-3, rtol=1e-4
    )
    last = engine.flops.passing(18.0, 0.0, "", last=2) + 4 * engine.flops.width * 2 * float(counted.sum())
    prefilled = torch.tensor([7, 2, 4, 4])
    alone = engine.flops.decoding(seq.prompt_mask.sum(-1), seq.lengths, prefilled)
    assert engine.usage.flops == pytest.approx(alone + last, rel=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_in_half_precision_log_probs_from_there_are_no_further_from_the_truth(name: str) -> None:
    lora, prompts = LoraConfig(rank=2, top_layers=1), PROMPTS * 8
    exact = make_backbone("", lora, model=make_model(KNOWN[name]))
    short = make_backbone("", lora, model=make_model(KNOWN[name], torch.bfloat16))
    seq = make_engine(name, torch.bfloat16).generate(
        *pad_prompts(prompts, PAD, CPU), uniforms(len(prompts), TOKENS, 9), 6.0, depth=2
    )
    assert seq.trunk is not None
    plain = replace(seq, trunk=None)
    true = exact.logprobs(Role.policy, plain).detach()
    from_there, whole = (short.logprobs(Role.policy, one).detach() - true for one in (seq, short.with_trunk(plain)))
    assert 0 < float(from_there.norm()) < 1.25 * float(whole.norm())


def test_a_model_of_unknown_structure_gives_no_trunk_while_it_decodes() -> None:
    engine = RolloutEngine(make_model(UNKNOWN["other norms"]), EOS, PAD)
    seq = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), uniforms(len(PROMPTS), TOKENS, 2), 1.0, depth=2)
    assert seq.trunk is None


def test_adapters_reach_the_joined_weights_and_what_is_saved(tmp_path: Path) -> None:
    backbone = make_backbone("llama", LoraConfig(enabled=False))
    engine = RolloutEngine(backbone.base, EOS, PAD)
    numbers = uniforms(len(PROMPTS), TOKENS, 2)
    before = responses(engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0))
    with torch.no_grad():
        for parameter in backbone.parameters_of(Role.policy):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    engine.sync(backbone)
    after = responses(engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0))
    assert engine.structure is not None
    assert engine.structure.current
    assert after == by_forward(engine, numbers, 1.0, Truncation()) != before
    engine.model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    policy = backbone.copies[Role.policy.value].state_dict()
    assert saved.keys() == policy.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in policy.items())


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("rows", [1, 3, 32, 200])
def test_packed_weights_give_the_same_numbers_to_the_bit(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(96, out, bias=bias, dtype=torch.bfloat16).requires_grad_(False) for out in (160, 64)]
    x = torch.randn(rows, 96, dtype=torch.bfloat16)
    wanted = torch.cat([layer(x) for layer in layers], -1)
    product = Product(*layers)
    assert torch.equal(product(x), wanted)
    with torch.inference_mode():
        product.take()
        assert torch.equal(product(x), wanted)


def test_weights_in_bfloat16_are_packed_anew_by_every_sync() -> None:
    model = make_model(KNOWN["llama"]).to(torch.bfloat16)
    engine = RolloutEngine(model, EOS, PAD)
    backbone = make_backbone("llama", LoraConfig(rank=4, alpha=64), model=model)
    numbers = uniforms(len(PROMPTS), TOKENS, 2)

    def drawn(engine: RolloutEngine) -> list[list[int]]:
        return responses(engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0))

    seen = [drawn(engine)]
    for _ in range(2):
        with torch.no_grad():
            for parameter in backbone.parameters_of(Role.policy):
                parameter.add_(0.3 * torch.randn_like(parameter))
        engine.sync(backbone)
        seen.append(drawn(engine))
        assert seen[-1] == drawn(RolloutEngine(engine.model, EOS, PAD))
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_engine_that_rests_shares_the_memory_of_the_base_and_leaves_it_as_it_is(
    dtype: torch.dtype, lora: bool
) -> None:
    model = make_model(KNOWN["llama"], dtype)
    engine = RolloutEngine(model, EOS, PAD)
    backbone = make_backbone("llama", LoraConfig(enabled=lora, rank=4, alpha=64), model=model)
    start = [p.data_ptr() for p in engine.model.parameters()]
    base = {name: p.detach().clone() for name, p in backbone.base.named_parameters() if "lora" not in name}
    places = {p.data_ptr() for p in backbone.base.parameters()}
    assert set(start) <= places
    with torch.no_grad():
        for parameter in backbone.parameters_of(Role.policy):
            parameter.add_(0.3 * torch.randn_like(parameter))
    numbers = uniforms(len(PROMPTS), TOKENS, 2)

    def drawn(engine: RolloutEngine) -> list[list[int]]:
        return responses(engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0))

    first = drawn(engine)
    for _ in range(2):
        engine.sync(backbone)
        own = sum(p.data_ptr() not in places for p in engine.model.parameters())
        assert own == (len(start) if not lora else 7 * LAYERS["num_hidden_layers"])
        assert drawn(engine) == drawn(RolloutEngine(copy.deepcopy(engine.model), EOS, PAD)) != first
        engine.rest()
        with pytest.raises(RuntimeError, match="sync it first"):
            drawn(engine)
        assert [p.data_ptr() for p in engine.model.parameters()] == start
    now = dict(backbone.base.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in base.items())


def test_the_layouts_of_layers_without_adapters_stay_and_the_others_are_made_anew() -> None:
    model = make_model(KNOWN["llama"]).to(torch.bfloat16)
    if not packs(next(model.parameters())):
        pytest.skip("this processor has no products of laid-out weights")
    engine = RolloutEngine(model, EOS, PAD)
    backbone = make_backbone("", LoraConfig(rank=2, top_layers=1), model=model)
    engine.sync(backbone)
    assert engine.structure is not None
    products = engine.structure.products
    laid_out = [product._packed for product in products]
    engine.rest()
    resting = [product._packed for product in products]
    adapted = [place for place, layout in enumerate(resting) if layout is None]
    # Of the last layer: queries, keys and values as one, the output, gate and up as one, down; not the projection.
    assert adapted == list(range(len(products) - 5, len(products) - 1))
    with torch.no_grad():
        for parameter in backbone.parameters_of(Role.policy):
            parameter.add_(0.3)
    engine.sync(backbone)
    for place, (product, before) in enumerate(zip(products, laid_out, strict=True)):
        assert (product._packed is before) == (place not in adapted)
    asked = (*pad_prompts(PROMPTS, PAD, CPU), uniforms(len(PROMPTS), TOKENS, 2), 1.0)
    fresh = RolloutEngine(copy.deepcopy(engine.model), EOS, PAD)
    assert responses(engine.generate(*asked)) == responses(fresh.generate(*asked))


def test_lora_reaches_the_joined_weights() -> None:
    model = make_model(KNOWN["llama"])
    engine = RolloutEngine(model, EOS, PAD)
    assert engine.structure is not None
    backbone = make_backbone("llama", LoraConfig(rank=4, alpha=64), model=model)
    engine.sync(backbone)
    ids, mask = pad_prompts([PROMPTS[0]], PAD, CPU)
    got = engine.generate(ids, mask, torch.zeros(1, 1), 0.0).response_ids[0, 0]
    seq = Sequences(ids, mask, got[None, None], torch.ones(1, 1, dtype=torch.bool))
    with torch.inference_mode():
        logits = Decoding(engine.structure, ids, mask, 1).prefill()
        expected = backbone.logprobs(Role.policy, seq)[0, 0]
        reference = backbone.logprobs(Role.reference, seq)[0, 0]
    assert logits.log_softmax(-1)[0, got] == pytest.approx(float(expected), abs=1e-4)
    assert abs(float(expected - reference)) > 0.01


def test_what_is_sampled_can_be_learned_from() -> None:
    model = make_model(KNOWN["llama"])
    engine = RolloutEngine(model, EOS, PAD)
    backbone = make_backbone("llama", LoraConfig(rank=4), model=model)
    seq = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), uniforms(len(PROMPTS), 3, 2), 1.0)
    backbone.logprobs(Role.policy, seq).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters_of(Role.policy))


def test_weights_moved_away_are_joined_again() -> None:
    engine = make_engine("llama")
    first = engine.structure
    engine.model.to(torch.float64)
    numbers = uniforms(len(PROMPTS), TOKENS, 2)
    got = engine.generate(*pad_prompts(PROMPTS, PAD, CPU), numbers, 1.0)
    assert engine.structure is not first
    assert responses(got) == by_forward(engine, numbers, 1.0, Truncation())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reason", UNKNOWN)
def test_other_models_are_decoded_by_their_own_forward_with_one_notice(
    reason: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(UNKNOWN[reason]).eval().to(dtype)  # as small as random starts are
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    engine = RolloutEngine(model, EOS, PAD)
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    with caplog.at_level(logging.WARNING, logger="rft"):
        for _ in range(2):
            seq = engine.generate(ids, mask, uniforms(len(ids), TOKENS, 2), 1.0)
    assert engine.structure is None
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "decoded by its own forward pass" in caplog.text
    assert responses(seq) == by_forward(engine, uniforms(len(ids), TOKENS, 2), 1.0, Truncation())
    assert all(torch.equal(weights[name], weight) for name, weight in engine.model.state_dict().items())


@pytest.mark.parametrize(("error", "tried"), [(0.0, 1), (1.0, 2)])
def test_a_kind_of_model_is_tried_until_it_is_found_right(
    error: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PreTrainedModel] = []

    def discrepancy(model: PreTrainedModel, _: object) -> float:
        asked.append(model)
        return error

    monkeypatch.setattr(probe, "_tried", set())
    monkeypatch.setattr(probe, "discrepancy", discrepancy)
    for _ in range(2):
        engine = RolloutEngine(make_model(KNOWN["llama"]), EOS, PAD)
        assert (engine.structure is not None) == (error == 0)
    assert len(asked) == tried
    RolloutEngine(make_model(KNOWN["llama"], torch.float64), EOS, PAD).structure  # noqa: B018, another type
    assert len(asked) == tried + 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_magnified_weights_are_put_back_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(KNOWN["llama"]).to(dtype)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad(), magnified(model):
        assert not torch.equal(weights[1], list(model.parameters())[1])
    assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))


def test_weights_are_laid_out_as_they_are_where_the_probe_changed_some_of_a_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "_tried", set())
    model = make_model(KNOWN["llama"], torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "up_proj" in name:  # beside small ones of the same input
                weight.mul_(2.0 ** math.ceil(math.log2(weight.numel() ** 0.25 / float(weight.norm())) + 1))
        with magnified(model) as changed:
            assert 0 < len(changed) < len(list(model.parameters()))
    structure = probe.known_structure(model)
    with torch.inference_mode():
        for product in structure.products:
            x = torch.randn(3, product.layers[0].in_features).bfloat16()
            wanted = torch.cat([layer(x) for layer in product.layers], -1)
            torch.testing.assert_close(product(x), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


def test_a_prompt_padded_on_the_right_is_refused() -> None:
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    with pytest.raises(ValueError, match="padded on the right"):
        make_engine("llama").generate(ids.flip(1), mask.flip(1), torch.zeros(len(ids), 2), 1.0)
