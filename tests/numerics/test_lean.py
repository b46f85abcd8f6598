"""Norms and gated perceptrons that keep less, against those of transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rft.models.backbone import Role
from rft.models.lean import keep_less
from rft.models.pretrained import LoraConfig
from rft.types import Sequences
from tests.numerics.backbones import make_backbone
from tests.numerics.test_decoding import KNOWN, VOCABULARY, make_model

PLAIN = {"gpt2"}  # layer norms and a perceptron without a gate


def lean(model: Any) -> Any:
    """A copy of a changed copy, as engines and roles of their own are."""
    changed = copy.deepcopy(model)
    keep_less(changed)
    return copy.deepcopy(changed)


def changed_modules(model: nn.Module) -> list[nn.Module]:
    """Those of a class of ours."""
    return [
        module for module in model.modules() if type(module).forward.__code__.co_filename.endswith("rft/models/lean.py")
    ]


def passed(model: Any) -> tuple[Tensor, list[Tensor], int]:
    """Log-probabilities of some tokens, the gradients of all weights, and the bytes that were kept for them."""
    ids = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    model.requires_grad_(True)
    weights, kept = {p.data_ptr() for p in model.parameters()}, {}

    def note(x: Tensor) -> Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        logprobs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    logprobs[:, :-1].gather(-1, ids[:, 1:, None]).sum().backward()
    return logprobs.detach(), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("name", KNOWN)
def test_it_gives_what_the_model_gives_and_keeps_less(name: str) -> None:
    model = make_model(KNOWN[name])
    ours = lean(model)
    assert bool(changed_modules(ours)) is (name not in PLAIN)
    wanted, gradients, kept = passed(model)
    found, ours_gradients, ours_kept = passed(ours)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    error = torch.cat([(a - b).flatten() for a, b in zip(ours_gradients, gradients, strict=True)])
    assert error.norm() < 1e-5 * torch.cat([x.flatten() for x in gradients]).norm()
    assert ours_kept < (0.85 if name not in PLAIN else 1.01) * kept


@pytest.mark.parametrize("name", sorted(set(KNOWN) - PLAIN))
def test_in_bfloat16_its_gradients_are_no_further_from_those_in_float32(name: str) -> None:
    model = make_model(KNOWN[name])
    exact = torch.cat([x.flatten() for x in passed(copy.deepcopy(model))[1]])

    def error(short: Any) -> float:
        found = torch.cat([x.float().flatten() for x in passed(short)[1]])
        return float((found - exact).norm() / exact.norm())

    short = model.to(torch.bfloat16)
    assert error(lean(short)) < 1.2 * error(short) + 1e-3


@pytest.mark.parametrize("name", sorted(set(KNOWN) - PLAIN))
def test_without_gradient_it_gives_the_same(name: str) -> None:
    model = make_model(KNOWN[name])
    ids = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = (m(input_ids=ids, use_cache=False).logits for m in (lean(model), model))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "lora",
    [LoraConfig(enabled=False), LoraConfig(rank=4), LoraConfig(rank=4, targets="gate_proj,q_proj")],
    ids=["full", "lora", "lora on some"],
)
def test_roles_of_a_backbone_learn_the_same(lora: LoraConfig, dtype: torch.dtype, sequences: Sequences) -> None:
    found = []
    for make in (lean, copy.deepcopy):
        backbone = make_backbone(
            "llama", lora, (Role.policy, Role.reward), model=make(make_model(KNOWN["llama"], dtype))
        )
        (backbone.logprobs(Role.policy, sequences).sum() + backbone.scores(sequences).sum()).backward()
        roles = [backbone.parameters_of(role) for role in (Role.policy, Role.reward)]
        found.append(torch.cat([p.grad.flatten() for role in roles for p in role if p.grad is not None]))
    ours, plain = found
    assert (ours - plain).norm() < (1e-4 if dtype is torch.float32 else 0.05) * plain.norm()


class RmsNorm(nn.Module):
    """One that is like the known ones in all but what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states / (hidden_states.abs().mean(-1, keepdim=True) + self.eps) * self.weight


def test_a_module_that_only_looks_like_one_is_left_alone() -> None:
    model = make_model(KNOWN["llama"])
    for layer in model.model.layers:
        layer.input_layernorm = RmsNorm()
    norms = [module for module in changed_modules(lean(model)) if "Norm" in type(module).__name__]
    assert len(norms) == len(model.model.layers) + 1  # those after attention, and the last
    assert not any(isinstance(norm, RmsNorm) for norm in norms)


class GatedNorm(nn.Module):
    """As some state space models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        x = hidden_states if gate is None else hidden_states * gate
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def test_a_norm_with_a_gate_and_one_without_weights_are_left_alone() -> None:
    model = make_model(KNOWN["llama"])
    bare = copy.deepcopy(model.model.norm)
    del bare.weight
    model.model.others = nn.ModuleList([GatedNorm(), bare])
    keep_less(model)
    assert not set(changed_modules(model)) & set(model.model.others)


class Linear(nn.Module):
    """Gives its input back, as transformers' LinearActivation."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_an_activation_that_gives_its_input_back() -> None:
    model = make_model(KNOWN["llama"])
    for layer in model.model.layers:
        layer.mlp.act_fn = Linear()
    ours = lean(model)
    wanted, found = (torch.cat([x.flatten() for x in passed(m)[1]]) for m in (model, ours))
    assert len(changed_modules(ours)) == 3 * len(model.model.layers) + 1
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


def test_float64_is_left_to_the_module() -> None:
    model = make_model(KNOWN["llama"]).double()
    torch.testing.assert_close(passed(lean(model))[0], passed(model)[0], rtol=0, atol=1e-6)
