"""Products with weights that are kept laid out, against plain ones."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from rft.models.backbone import Role
from rft.models.pretrained import LoraConfig
from rft.ops import products
from rft.ops.products import frozen_back, frozen_linear
from tests.numerics.test_packing import make, siblings


def weight(rows: int = 96, columns: int = 64, dtype: torch.dtype = torch.bfloat16) -> nn.Parameter:
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    return nn.Parameter(made.to(dtype), requires_grad=False)


def some(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)


def kept() -> int:
    gc.collect()
    return sum(one.nbytes for one in products._layouts.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_both_ways_are_the_plain_products(rows: int, dtype: torch.dtype) -> None:
    w, bias = weight(dtype=dtype), some(1, 96, dtype)[0]
    x, y = some(rows, 64, dtype), some(rows, 96, dtype)
    assert torch.equal(frozen_linear(x, w), nn.functional.linear(x, w))
    assert torch.equal(frozen_linear(x, w, bias), nn.functional.linear(x, w, bias))
    assert torch.equal(frozen_back(y, w), y @ w)
    assert torch.equal(frozen_back(some(96, rows, dtype).T, w), some(96, rows, dtype).T @ w)


def test_weights_that_change_are_laid_out_anew() -> None:
    w, x = weight(), some(8, 64)
    before = frozen_linear(x, w)
    with torch.no_grad():
        w.mul_(-2)
    torch.testing.assert_close(frozen_linear(x, w), -2 * before)
    w.data = w.data.clone().mul_(0.5)
    torch.testing.assert_close(frozen_linear(x, w), -before)


@pytest.mark.skipif(not products.packs(weight()), reason="this processor has no such products")
def test_what_is_laid_out_goes_with_its_weight_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    before, w, x = kept(), weight(), some(8, 64)
    frozen_linear(x, w), frozen_back(some(8, 96), w), frozen_linear(x, w)
    assert kept() == before + 2 * w.nbytes
    trained, passing = nn.Parameter(w.data.clone()), w.data.clone()
    frozen_linear(x, trained), frozen_back(some(8, 96), trained), frozen_linear(x, passing)
    assert kept() == before + 2 * w.nbytes  # of what is trained, and of what is no parameter, nothing is kept
    monkeypatch.setattr(products, "MOST_PACKED", kept() + w.nbytes - 1)
    other = weight(96, 64)
    torch.testing.assert_close(frozen_linear(x, other), x @ other.T)
    assert kept() == before + 2 * w.nbytes
    del w, passing
    assert kept() == before
    frozen_linear(x, other)
    assert kept() == before + other.nbytes  # there is room now
    other.requires_grad_(True)
    frozen_linear(x, other)
    assert kept() == before


def test_weights_that_were_made_without_version_counters_are_multiplied_plainly() -> None:
    with torch.inference_mode():
        w, x = nn.Parameter(torch.randn(96, 64).bfloat16(), requires_grad=False), some(8, 64)
        assert torch.equal(frozen_linear(x, w), nn.functional.linear(x, w))


@pytest.mark.skipif(not products.packs(weight()), reason="this processor has no such products")
def test_training_keeps_the_weights_under_adapters_and_the_projection_laid_out() -> None:
    before = kept()
    backbone = make("llama", LoraConfig(rank=2), torch.bfloat16)
    backbone.logprobs(Role.policy, siblings()).sum().backward()
    sizes = {name: layer.get_base_layer().weight.nbytes for name, layer in backbone._layers}
    # Nothing below the first layer wants a gradient.
    forward_only = sum(size for name, size in sizes.items() if "layers.0.self_attn" in name and "o_proj" not in name)
    head = backbone.base.get_output_embeddings().weight.nbytes
    assert kept() == before + 2 * (sum(sizes.values()) + head) - forward_only
