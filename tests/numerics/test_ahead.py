"""Passes made ahead of the loss: made once, right, and never those of other rows or weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig
from rft.types import Sequences
from tests.numerics.backbones import TOKENIZER, make_backbone, make_model

ASK: dict[str, Callable[[Backbone, Sequences], Tensor]] = {
    "logprobs": lambda backbone, seq: backbone.logprobs(Role.policy, seq),
    "values": lambda backbone, seq: backbone.values(seq),
}


class Passes:
    """Counts the passes through the decoder of a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.count = 0
        backbone.base.get_decoder().register_forward_hook(self._one_more)

    def _one_more(self, *_: object) -> None:
        self.count += 1


def start() -> tuple[Backbone, Passes]:
    backbone = make_backbone("llama", LoraConfig(rank=4), trained=(Role.policy, Role.critic))
    return backbone, Passes(backbone)


def gradients(backbone: Backbone, result: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad()
    result.pow(2).sum().backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ASK)
def test_the_loss_takes_the_graph_of_the_same_rows(name: str, sequences: Sequences) -> None:
    backbone, passes = start()
    ask = ASK[name]
    wanted = gradients(backbone, plain := ask(backbone, sequences))
    with torch.no_grad(), backbone.ahead.before_loss():
        ahead = ask(backbone, sequences).detach()
    made = passes.count
    taken = ask(backbone, sequences[slice(None)])
    assert passes.count == made
    assert torch.equal(taken, ahead)
    assert torch.equal(taken, plain)
    got = gradients(backbone, taken)
    assert got.keys() == wanted.keys()
    assert got
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    ask(backbone, sequences)
    assert passes.count == made + 1  # a graph is used once


@pytest.mark.parametrize("change", ["rows", "weights", "temperature", "gradient"])
def test_nothing_else_takes_it(change: str, sequences: Sequences) -> None:
    backbone, passes = start()
    with backbone.ahead.before_loss():
        backbone.logprobs(Role.policy, sequences)
    made, seq, temperature = passes.count, sequences, 1.0
    if change == "rows":
        seq = sequences[torch.tensor([1, 0])]
    elif change == "weights":
        with torch.no_grad():
            backbone.parameters_of(Role.policy)[0].mul_(1.0)
    elif change == "temperature":
        temperature = 0.5
    with torch.set_grad_enabled(change != "gradient"):
        found = backbone.logprobs(Role.policy, seq, temperature)
    assert passes.count == made + 1
    assert found.requires_grad is (change != "gradient")


def test_a_copy_of_the_backbone_has_nothing_kept_and_looks_at_its_own_weights(sequences: Sequences) -> None:
    backbone, _ = start()
    with backbone.ahead.before_loss():
        backbone.logprobs(Role.policy, sequences)
    other = copy.deepcopy(backbone)
    passes = Passes(other)
    with other.ahead.before_loss():
        other.logprobs(Role.policy, sequences)
    with torch.no_grad():
        other.parameters_of(Role.policy)[0].mul_(1.0)
    other.logprobs(Role.policy, sequences)
    assert passes.count == 2


def head_critic() -> tuple[Backbone, Passes]:
    backbone = Backbone(
        make_model("llama"),
        TOKENIZER,
        LoraConfig(enabled=False),
        [Role.policy, Role.critic],
        [Role.policy, Role.critic],
        critic_on_policy=True,
    )
    passes = Passes(backbone)
    backbone.copies[Role.policy.value].get_decoder().register_forward_hook(passes._one_more)
    return backbone, passes


def test_a_critic_on_the_policy_is_a_head_and_takes_no_pass_of_its_own(sequences: Sequences) -> None:
    backbone, passes = head_critic()
    assert list(backbone.copies) == [Role.policy.value]
    assert [p.shape for p in backbone.parameters_of(Role.critic)] == [(1, 32), (1,)]
    logprobs, values = backbone.logprobs(Role.policy, sequences), backbone.values(sequences)
    entropy = backbone.entropy(Role.policy, sequences)
    assert passes.count == 1
    (logprobs.sum() + values.pow(2).sum() + entropy.sum()).backward()
    states = backbone.copies[Role.policy.value].get_decoder()
    ids = torch.cat([sequences.prompt_ids, sequences.response_ids], 1)[1:]
    hidden = states(input_ids=ids).last_hidden_state[:, 2:-1]
    torch.testing.assert_close(values[1], backbone.heads[Role.critic.value](hidden)[0, :, 0])
    assert all(p.grad is not None for p in backbone.parameters_of(Role.policy) + backbone.parameters_of(Role.critic))


def test_a_reader_that_asks_again_has_a_graph_of_its_own(sequences: Sequences) -> None:
    backbone, passes = head_critic()
    for count in (1, 2):
        (backbone.logprobs(Role.policy, sequences).sum() + backbone.values(sequences).sum()).backward()
        assert passes.count == count


def test_what_is_counted_is_what_is_made(sequences: Sequences) -> None:
    spent = []
    for own in (True, False):
        backbone, _ = head_critic() if not own else (make_full(), None)
        before = backbone.usage.flops
        with torch.no_grad():
            backbone.logprobs(Role.policy, sequences)
            one = backbone.usage.flops - before
            backbone.values(sequences)
        spent.append((backbone.usage.flops - before) / one)
    assert spent[1] == 1
    assert spent[0] > 1.5


def test_a_backward_is_counted_when_it_comes(sequences: Sequences) -> None:
    backbone, _ = start()
    tokens = float(sequences.prompt_mask.sum() + sequences.response_mask.sum())
    with torch.no_grad():
        backbone.logprobs(Role.policy, sequences)
    forward, backbone.usage.flops = backbone.usage.flops, 0.0
    with backbone.ahead.before_loss():
        backbone.logprobs(Role.policy, sequences)
    assert (backbone.usage.flops, backbone.usage.trained_tokens) == (forward, 0)
    backbone.logprobs(Role.policy, sequences).sum().backward()
    assert backbone.usage.flops > 2 * forward
    assert backbone.usage.trained_tokens == tokens


def make_full() -> Backbone:
    roles = [Role.policy, Role.critic]
    return Backbone(make_model("llama"), TOKENIZER, LoraConfig(enabled=False), roles, roles)
