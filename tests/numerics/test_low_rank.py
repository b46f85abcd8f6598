"""Adapters in the type of their weights against autograd, and against peft's own layers.

Dimensions: ``N`` tokens, ``I`` inputs, ``O`` outputs, ``R`` rank.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rft.models.adapters import _Adapted, adapt_in_type
from rft.models.backbone import Role
from rft.models.pretrained import LoraConfig
from rft.types import Sequences
from tests.numerics.backbones import make_backbone, make_model


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    return tuple(torch.randn(s, generator=generator, dtype=dtype) for s in shapes)  # type: ignore[return-value]


@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_autograd(biased: bool) -> None:
    x, weight, bias, a, b = given()
    chosen = bias if biased else None
    for tensor in (x, a, b):
        tensor.requires_grad_()
    ours = _Adapted.apply(x, weight, chosen, a, b, 2.0)
    plain = nn.functional.linear(x, weight, chosen) + 2 * (x @ a.T @ b.T)
    torch.testing.assert_close(ours, plain)
    seed = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got, wanted = (torch.autograd.grad((y * seed).sum(), [x, a, b]) for y in (ours, plain))
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight, _, a, b = given()
    a.requires_grad_()
    _Adapted.apply(x, weight, None, a, b, 1.0).sum().backward()
    assert (x.grad, b.grad) == (None, None)
    assert a.grad is not None


def test_adapters_stay_float32_beside_short_weights() -> None:
    x, weight, _, _, _ = given(torch.bfloat16)
    _, _, _, a, b = given(torch.float32)
    for tensor in (x, a, b):
        tensor.requires_grad_()
    y = _Adapted.apply(x, weight, None, a, b, 2.0)
    y.float().pow(2).sum().backward()
    assert y.dtype is torch.bfloat16
    assert (x.grad.dtype, a.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    exact = nn.functional.linear(x.double(), weight.double()) + 2 * (x.double() @ a.double().T @ b.double().T)
    torch.testing.assert_close(y.double(), exact, rtol=0.03, atol=0.05)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_a_model_computes_what_it_does_with_the_layers_of_peft(name: str, sequences: Sequences) -> None:
    model = make_model(name).double()
    backbone = make_backbone(name, LoraConfig(rank=4), model=model)
    ours = backbone.logprobs(Role.policy, sequences)
    ours.sum().backward()
    got = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
    replaced = 0
    for _, layer in backbone._layers:
        replaced += "forward" in vars(layer)
        vars(layer).pop("forward", None)
    assert (replaced > 0) is (name != "gpt2")  # whose layers are transposed
    backbone.zero_grad()
    theirs = backbone.logprobs(Role.policy, sequences)
    theirs.sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    wanted = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    for n, gradient in wanted.items():
        torch.testing.assert_close(got[n], gradient, rtol=1e-4, atol=1e-5)


def test_other_layers_than_linear_ones_are_left_to_peft() -> None:
    backbone = make_backbone("gpt2", LoraConfig(rank=4))
    _, layer = backbone._layers[0]
    adapt_in_type(layer)
    assert "forward" not in vars(layer)
