"""Attention in groups against torch's fused kernel, in whole models of several families.

Dimensions: ``B`` sequences, ``T`` tokens.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rft.models.attention import LONGEST, NAME, attend_in_groups, grouped_attention
from tests.numerics.test_decoding import KNOWN, VOCABULARY, make_model


def states(batch: int, heads: int, kv_heads: int, tokens: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, h, tokens, 8) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (6, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_the_fused_kernel(heads: int, kv_heads: int, masked: bool) -> None:
    q, k, v = states(3, heads, kv_heads, 9)
    places = torch.arange(9)
    seen = (places[:, None] >= places) & (places[:, None] - places < 4)
    mask = seen.expand(3, 1, 9, 9) if masked else None
    ours = grouped_attention(q, k, v, mask, 0.3)
    wanted = scaled_dot_product_attention(q, k, v, mask, is_causal=not masked, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, wanted.transpose(1, 2))
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = torch.autograd.grad((ours * weight).sum(), [q, k, v])
    for mine, theirs in zip(got, torch.autograd.grad((wanted.transpose(1, 2) * weight).sum(), [q, k, v]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_token_that_sees_nothing_gives_a_number() -> None:
    q, k, v = states(1, 2, 1, 4)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    mask[0] = False
    assert grouped_attention(q, k, v, mask[None, None], 1.0).isfinite().all()


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_computes_the_same(name: str) -> None:
    fused = make_model(KNOWN[name])
    grouped = copy.deepcopy(fused)
    attend_in_groups(grouped)
    changed = fused.config._attn_implementation == "sdpa"
    assert (grouped.config._attn_implementation == NAME) is changed
    assert fused.config._attn_implementation != NAME
    ids = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        for given in ({}, {"attention_mask": mask, "position_ids": positions}):
            ours, wanted = (model(input_ids=ids, use_cache=False, **given).logits for model in (grouped, fused))
            counted = mask.bool() if given else torch.ones_like(mask, dtype=torch.bool)
            torch.testing.assert_close(ours[counted], wanted[counted], rtol=1e-4, atol=1e-4)


def test_long_sequences_and_single_tokens_take_the_fused_kernel() -> None:
    fused = make_model(KNOWN["llama"])
    grouped = copy.deepcopy(fused)
    attend_in_groups(grouped)
    ids = torch.randint(3, VOCABULARY, (1, LONGEST + 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(grouped(input_ids=ids).logits, fused(input_ids=ids).logits)
        kept = [model(input_ids=ids[:, :9]).past_key_values for model in (fused, fused)]
        last = [
            model(input_ids=ids[:, 9:10], past_key_values=cache).logits
            for model, cache in zip((grouped, fused), kept, strict=True)
        ]
    assert torch.equal(*last)
