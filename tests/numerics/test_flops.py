"""The formula for floating-point operations against torch's own counter of what is executed.

Attention must be `eager`: torch's counter has no formula for the fused kernels of a CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig
from rft.rollout import RolloutEngine
from rft.types import Sequences
from tests.numerics.backbones import TOKENIZER

B, P, R, LAYERS, VOCABULARY = 3, 6, 5, 12, 64
LORA = LoraConfig(rank=4, alpha=8)


def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_implementation="eager",
    )
    return AutoModelForCausalLM.from_config(config)


def backbone(lora: LoraConfig = LORA) -> Backbone:
    return Backbone(model(), TOKENIZER, lora, list(Role), [Role.policy, Role.critic], seed=1)


def sequences() -> Sequences:
    """No padding: there the counter, which counts padding, and the formula, which does not, must agree."""
    ids = torch.randint(3, VOCABULARY, (B, P + R), generator=torch.Generator().manual_seed(0))
    full = torch.ones_like(ids, dtype=torch.bool)
    return Sequences(ids[:, :P], full[:, :P], ids[:, P:], full[:, P:])


def executed(run: Any) -> float:
    # The counter knows a product that is added to a tensor, and not one that is added in place, as adapters' are.
    known = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("role", [Role.reference, Role.policy])
@pytest.mark.parametrize("top_layers", [0, 5])
@torch.no_grad()
def test_forward_is_exact(role: Role, top_layers: int) -> None:
    net = backbone(replace(LORA, top_layers=top_layers))
    # The projection is taken of the positions before every response token, all of which count here.
    seen = executed(lambda: net.logprobs(role, sequences()))
    assert net.usage.flops == seen


@torch.no_grad()
def test_trunk_and_what_follows_it_are_exact() -> None:
    net = backbone(replace(LORA, top_layers=5))
    seen = executed(lambda: net.logprobs(Role.policy, net.with_trunk(sequences())))
    whole = executed(lambda: net.logprobs(Role.policy, sequences()))
    assert net.usage.flops == seen + whole
    assert seen == whole


@torch.no_grad()
def test_generation_is_exact() -> None:
    engine = RolloutEngine(model(), eos_id=VOCABULARY, pad_id=0)  # an EOS that no row can end with
    assert engine.structure is not None  # what reading it computes is not counted
    seq = sequences()
    seen = executed(
        lambda: engine.generate(seq.prompt_ids, seq.prompt_mask, torch.rand(B, R, dtype=torch.float64), 1.0)
    )
    assert engine.usage.generated_tokens == B * R
    # What the formula calls attention to t tokens is, in the executed prefill, attention to all of the prompt.
    assert engine.usage.flops == seen


@torch.no_grad()
def test_generation_with_shared_prompts_is_exact() -> None:
    engine = RolloutEngine(model(), eos_id=VOCABULARY, pad_id=0)
    assert engine.structure is not None
    seq = sequences()[torch.tensor([0, 1, 0, 0])]
    seen = executed(
        lambda: engine.generate(seq.prompt_ids, seq.prompt_mask, torch.rand(4, R, dtype=torch.float64), 1.0)
    )
    assert engine.usage.flops == seen


@pytest.mark.parametrize("lora", [LORA, LoraConfig(enabled=False)], ids=["lora", "full"])
def test_a_training_step_is_within_three_per_cent(lora: LoraConfig) -> None:
    """The formula takes the lowest layer's inputs to have gradients, which adapters do not need, and leaves out what is
    computed twice to save memory.
    """
    net = backbone(lora)
    seen = executed(lambda: net.logprobs(Role.policy, sequences()).sum().backward())
    assert net.usage.flops == pytest.approx(seen, rel=0.03)
    assert net.usage.trained_tokens == B * (P + R)


def test_padding_and_batching_count_nowhere() -> None:
    net, seq = backbone(), sequences()
    net.logprobs(Role.policy, seq)
    whole, net.usage.flops = net.usage.flops, 0.0
    wide = Sequences(
        torch.nn.functional.pad(seq.prompt_ids, (2, 0)),
        torch.nn.functional.pad(seq.prompt_mask, (2, 0)),
        torch.nn.functional.pad(seq.response_ids, (0, 3)),
        torch.nn.functional.pad(seq.response_mask, (0, 3)),
    )
    for row in range(B):
        net.logprobs(Role.policy, wide[slice(row, row + 1)])
    assert net.usage.flops == pytest.approx(whole, rel=1e-12)


def test_a_token_costs_two_operations_a_weight() -> None:
    """Kaplan et al. 2020, table 1: C_forward ≈ 2N a token, N the weights without embeddings."""
    net = backbone()
    weights = sum(p.numel() for name, p in net.base.named_parameters() if p.ndim == 2 and "layers" in name)
    adapters = sum(p.numel() for name, p in net.base.named_parameters() if ".lora_" in name)
    linear = net.flops.passing(1.0, 0.0, Role.reference.value)
    assert linear == 2 * (weights - adapters)
