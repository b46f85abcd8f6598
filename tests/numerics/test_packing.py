"""Sequences packed into one row without padding: every reading of a backbone, against a backbone that pads.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rft.models import backbone as module
from rft.models.attention import Packing, attend_in_groups, longest_packed
from rft.models.backbone import Backbone, PoolingEnum, Role
from rft.models.pretrained import LoraConfig
from rft.types import PreferenceBatch, Sequences
from tests.numerics.backbones import TOKENIZER
from tests.numerics.test_decoding import KNOWN, VOCABULARY, make_model

ASK: dict[str, Callable[[Backbone, Sequences], Tensor]] = {
    "logprobs": lambda b, seq: b.logprobs(Role.policy, seq),
    "reference": lambda b, seq: b.logprobs(Role.reference, seq),
    "entropy": lambda b, seq: b.entropy(Role.policy, seq),
    "values": lambda b, seq: b.values(seq),
    "last score": lambda b, seq: b.scores(seq),
    "mean score": lambda b, seq: b.scores(seq, PoolingEnum.mean),
}
WINDOWED = {"mistral", "qwen2", "gemma3"}  # some layers look back five tokens only
OTHERS = {"gemma2"}  # bounded scores, which no fused kernel has
ROOM = 14  # tokens of a row of `rows`


def rows() -> Sequences:
    generator = torch.Generator().manual_seed(3)
    prompts, responses = (torch.randint(3, VOCABULARY, (4, n), generator=generator) for n in (6, 8))
    before, after = torch.tensor([6, 2, 4, 1]), torch.tensor([3, 8, 1, 0])
    prompt_mask = torch.arange(6) >= 6 - before[:, None]
    return Sequences(prompts, prompt_mask, responses, torch.arange(8) < after[:, None])


def siblings() -> Sequences:
    """`rows`, of which the second and the fourth have the prompt of the first; the third has its ids, not its mask."""
    seq = rows()
    ids, mask = seq.prompt_ids[[0, 0, 0, 0]], seq.prompt_mask[[0, 0, 2, 0]]
    return replace(seq, prompt_ids=ids, prompt_mask=mask)


def config_of(name: str) -> Any:
    """By name; with ``-wide`` its windows are as wide as the rows."""
    config = copy.deepcopy(KNOWN[name.removesuffix("-wide")])
    if name.endswith("-wide"):
        config.sliding_window = ROOM
    return config


def make(name: str, lora: LoraConfig, dtype: torch.dtype = torch.float32) -> Backbone:
    model = make_model(config_of(name)).to(dtype)
    attend_in_groups(model)
    backbone = Backbone(model, TOKENIZER, lora, list(Role), [Role.policy, Role.critic, Role.reward], seed=1)
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(key)))
    return backbone


@pytest.mark.parametrize("name", KNOWN)
def test_models_that_mix_tokens_in_whole_attention_alone_are_packed(name: str) -> None:
    model = make_model(KNOWN[name])
    layers = model.config.num_hidden_layers
    assert longest_packed(model, layers) == 0
    attend_in_groups(model)
    wanted = {**dict.fromkeys(WINDOWED, 5), **dict.fromkeys(OTHERS, 0)}
    assert longest_packed(model, layers) == wanted.get(name, sys.maxsize)


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_rows_that_a_window_may_cut_off_are_padded(name: str) -> None:
    assert make(name, LoraConfig(rank=2))._packing(rows()) is None
    assert make(f"{name}-wide", LoraConfig(rank=2))._packing(rows()) is not None


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("name", ["llama", "llama-biased", "qwen3", "gpt2", "gemma", "mistral-wide", "gemma3-wide"])
@pytest.mark.parametrize("top_layers", [0, 1])
@pytest.mark.parametrize("given", [rows, siblings])
def test_every_reading_and_its_gradients_are_those_of_padded_rows(
    ask: str, name: str, top_layers: int, given: Callable[[], Sequences], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, found = make(name, LoraConfig(rank=2, top_layers=top_layers)), []
    for worth in (1.0, 0.0):  # packed, padded
        monkeypatch.setattr(module, "WORTH_PACKING", worth)
        seq = backbone.with_trunk(given())
        assert (backbone._packing(seq) is None) is (worth == 0)
        backbone.zero_grad()
        result = ASK[ask](backbone, seq)
        if result.requires_grad:
            result.sin().sum().backward()
        gradients = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
        found.append((result.detach(), gradients))
    (packed, got), (padded, wanted) = found
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    assert got.keys() == wanted.keys()
    for key, gradient in wanted.items():
        # Float32 sums in another order: an entry is off by the rounding of the largest.
        torch.testing.assert_close(got[key], gradient, rtol=1e-3, atol=max(1e-5, 1e-5 * float(gradient.abs().max())))


def test_a_row_does_not_see_its_neighbours() -> None:
    backbone, seq = make("llama", LoraConfig(rank=2)), rows()
    other = replace(seq, prompt_ids=seq.prompt_ids.clone())
    other.prompt_ids[0] = (other.prompt_ids[0] - 2) % (VOCABULARY - 3) + 3
    before, after = (backbone.logprobs(Role.policy, s).detach() for s in (seq, other))
    assert (before[0] - after[0]).abs().max() > 1e-3
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=0)


def test_the_layers_see_no_padding() -> None:
    backbone, seen = make("llama", LoraConfig(rank=2)), list[Any]()
    backbone.base.get_decoder().layers[0].mlp.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    seq = rows()
    backbone.logprobs(Role.policy, seq)
    assert seen == [(1, int(seq.prompt_mask.sum() + seq.response_mask.sum()), 32)]


def test_the_layers_see_a_prompt_of_several_rows_once_and_it_counts_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen, counted = make("llama", LoraConfig(rank=2)), list[int](), list[float]()
    backbone.base.get_decoder().layers[0].mlp.register_forward_hook(lambda _, x, __: seen.append(x[0][..., 0].numel()))
    for worth in (1.0, 0.0):  # packed, padded
        monkeypatch.setattr(module, "WORTH_PACKING", worth)
        before = backbone.usage.flops
        backbone.logprobs(Role.policy, siblings())
        counted.append(backbone.usage.flops - before)
    # Of the prompts' 22 tokens 12 are those of the second and fourth row, and repeats; the responses have 12.
    prompts, responses = (int(mask.sum()) for mask in (siblings().prompt_mask, siblings().response_mask))
    assert (prompts, responses, seen) == (22, 12, [22, 4 * ROOM])
    assert counted[0] == counted[1]


@pytest.mark.parametrize("trunks", [(False, False), (True, False), (True, True)], ids=["none", "one", "both"])
def test_both_sides_of_pairs_are_one_pass_whatever_their_widths(trunks: tuple[bool, bool]) -> None:
    backbone, seq = make("llama", LoraConfig(rank=2, top_layers=1)), rows()
    wide = replace(
        siblings(),
        prompt_ids=torch.cat([seq.prompt_ids[:, :2], siblings().prompt_ids], 1),
        prompt_mask=torch.cat([siblings().prompt_mask[:, :2] & False, siblings().prompt_mask], 1),
        response_ids=seq.response_ids[:, :5],
        response_mask=torch.arange(5) < torch.tensor([5, 1, 4, 2])[:, None],
    )
    sides = [backbone.with_trunk(side) if kept else side for side, kept in zip((wide, siblings()), trunks, strict=True)]
    both = PreferenceBatch(*sides, torch.ones(4)).both
    assert (both.prompt_ids.shape, both.response_ids.shape) == ((8, 8), (8, 8))
    assert (both.trunk is not None) is all(trunks)
    found = backbone.logprobs(Role.policy, both)
    wanted = [backbone.logprobs(Role.policy, side) for side in sides]
    torch.testing.assert_close(found[:4, :5], wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[4:], wanted[1], rtol=1e-4, atol=1e-5)
    assert bool((found[:4, 5:] == 0).all())


def test_rows_without_prompts_or_without_any_token_are_passed() -> None:
    backbone, seq = make("llama", LoraConfig(rank=2)), rows()
    nothing = torch.zeros(4, 0, dtype=torch.long)
    alone = backbone.hidden(Role.policy, replace(seq, prompt_ids=nothing, prompt_mask=nothing.bool()))
    assert torch.isfinite(alone[seq.response_mask]).all()
    empty = replace(seq, prompt_mask=seq.prompt_mask & False, response_mask=seq.response_mask & False)
    assert backbone.logprobs(Role.policy, empty).tolist() == torch.zeros(4, 8).tolist()


def test_in_bfloat16_gradients_with_shared_prompts_are_as_near_the_exact_ones() -> None:
    """Against float32: within 1.25 times the error of padded rows, adapters of all layers taken together."""
    gradients = dict[str, Tensor]()
    for name, dtype, worth in (
        ("exact", torch.float32, 0.0),
        ("padded", torch.bfloat16, 0.0),
        ("packed", torch.bfloat16, 1.0),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "WORTH_PACKING", worth)
            backbone = make("llama", LoraConfig(rank=2), dtype)
            backbone.logprobs(Role.policy, siblings()).sum().backward()
            found = [p.grad.flatten() for p in backbone.parameters_of(Role.policy) if p.grad is not None]
            gradients[name] = torch.cat(found)
    padded, packed = (float((gradients[name] - gradients["exact"]).norm()) for name in ("padded", "packed"))
    assert 0 < packed < 1.25 * padded < float(gradients["exact"].norm())


def test_gradients_of_shared_tokens_are_the_sums_of_their_rows() -> None:
    mask = torch.tensor([[False, True, True], [False, True, True], [True, True, False]])
    packing = Packing(mask, torch.tensor([[9, 5], [9, 5], [9, 5]]))
    x = torch.arange(1.0, 6.0)[None, :, None].requires_grad_()
    spread = packing.spread(x)
    assert spread[..., 0].tolist() == [[0, 1, 2], [0, 1, 3], [4, 5, 0]]
    spread.backward(torch.tensor([[7.0, 10, 20], [7, 30, 40], [50, 60, 7]])[..., None])
    assert x.grad is not None
    assert x.grad[0, :, 0].tolist() == [40, 20, 40, 50, 60]
    assert torch.equal(packing.pack(spread), x)


def test_packing_and_spreading_are_inverse() -> None:
    mask = torch.tensor([[False, True, True], [True, False, False]])
    x = torch.arange(12.0).view(2, 3, 2)
    packing = Packing(mask)
    assert packing.pack(x).tolist() == [[[2, 3], [4, 5], [6, 7]]]
    assert torch.equal(packing.spread(packing.pack(x)), x * mask[..., None])
    assert packing.positions_1N.tolist() == [[0, 1, 0]]
    assert packing.mask_B1TT[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]
