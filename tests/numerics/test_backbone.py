"""One backbone, many roles: what the roles share and what they do not, on real models of several architectures.

Dimensions: ``B`` sequences, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPT2Config, PreTrainedConfig

from rft.errors import UserError
from rft.feedback.ratings import RATINGS, TEXTS
from rft.models.backbone import Backbone, PoolingEnum, Role
from rft.models.pretrained import LoraConfig
from rft.study.rated import rated_pairs
from rft.types import Sequences
from tests.numerics.backbones import CONFIGS, SMALL, make_backbone, make_model
from tests.tokenizers import wordwise


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("role", [Role.policy, Role.reference])
def test_a_pass_from_the_trunk_equals_a_whole_pass(name: str, role: Role, sequences: Sequences) -> None:
    backbone = make_backbone(name, LoraConfig(rank=4, top_layers=2))
    resumed = backbone.with_trunk(sequences)
    assert resumed.trunk is not None
    assert resumed.trunk.shape == (2, 7, 32)
    torch.testing.assert_close(backbone.logprobs(role, resumed), backbone.logprobs(role, sequences), rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        FalconConfig(**SMALL, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
        BloomConfig(**SMALL, hidden_size=32, n_layer=3, n_head=4),
    ],
    ids=["falcon", "bloom"],
)
def test_layers_that_give_tuples_are_a_trunk_too(config: PreTrainedConfig, sequences: Sequences) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    resumed = make_backbone("", LoraConfig(rank=4, top_layers=1), model=copy.deepcopy(model)).with_trunk(sequences)
    assert resumed.trunk is not None
    # Another one, as of a process that finds it in the store and never makes it.
    backbone = make_backbone("", LoraConfig(rank=4, top_layers=1), model=model)
    for role in (Role.policy, Role.reference):
        torch.testing.assert_close(backbone.logprobs(role, resumed), backbone.logprobs(role, sequences), rtol=0, atol=0)


def test_the_layers_below_the_trunk_are_not_computed_again(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4, top_layers=1))
    resumed = backbone.with_trunk(sequences)
    ran: list[int] = []
    for depth, layer in enumerate(backbone.base.get_decoder().layers):
        layer.mlp.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    backbone.logprobs(Role.policy, resumed)
    assert ran == [3]
    backbone.logprobs(Role.policy, sequences)
    assert ran == [3, 0, 1, 2, 3]


def test_gradients_from_the_trunk_equal_those_of_a_whole_pass(sequences: Sequences) -> None:
    found = []
    for trunk in (False, True):
        backbone = make_backbone("llama", LoraConfig(rank=4, top_layers=2))
        seq = backbone.with_trunk(sequences) if trunk else sequences
        backbone.logprobs(Role.policy, seq).sum().backward()
        found.append([p.grad for p in backbone.parameters_of(Role.policy)])
        assert all(g is not None and bool(g.abs().sum() > 0) for g in found[-1])
    for whole, resumed in zip(*found, strict=True):
        torch.testing.assert_close(resumed, whole)


def test_the_trunk_follows_its_rows(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4, top_layers=2))
    whole = backbone.with_trunk(sequences)
    rows = torch.tensor([1])
    torch.testing.assert_close(
        backbone.logprobs(Role.policy, whole[rows]), backbone.logprobs(Role.policy, sequences)[rows]
    )


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), LoraConfig(enabled=False)])
def test_without_frozen_layers_there_is_no_trunk(lora: LoraConfig, sequences: Sequences) -> None:
    assert make_backbone("llama", lora).with_trunk(sequences).trunk is None


@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_is_the_start_whatever_the_adapters_are(name: str, sequences: Sequences) -> None:
    backbone = make_backbone(name, LoraConfig(rank=4))
    plain = make_model(name)
    ids = torch.cat([sequences.prompt_ids, sequences.response_ids], 1)[1:]
    wanted = plain(input_ids=ids).logits.log_softmax(-1)[0, 2:6].gather(1, ids[0, 3:, None])[:, 0]
    torch.testing.assert_close(backbone.logprobs(Role.reference, sequences)[1], wanted.detach())
    assert not torch.allclose(backbone.logprobs(Role.policy, sequences)[1], wanted)


def test_a_prompt_padded_on_the_left_gives_the_same_log_probs(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4))
    alone = Sequences(
        sequences.prompt_ids[:1, 1:],
        sequences.prompt_mask[:1, 1:],
        sequences.response_ids[:1],
        sequences.response_mask[:1],
    )
    torch.testing.assert_close(
        backbone.logprobs(Role.policy, alone), backbone.logprobs(Role.policy, sequences)[:1], rtol=1e-5, atol=1e-5
    )


def test_only_the_trained_roles_ask_for_gradients(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4), trained=(Role.policy, Role.critic))
    backbone.logprobs(Role.reference, sequences)
    wanted = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert wanted
    assert all("policy" in name.split(".") or "critic" in name.split(".") for name in wanted)
    assert set(backbone.parameters_of(Role.policy)).isdisjoint(backbone.parameters_of(Role.critic))


def test_the_score_is_read_at_the_last_counted_token(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4))
    hidden = backbone.hidden(Role.reward, sequences)
    head = backbone.heads["reward"]
    wanted = torch.stack([head(hidden[0, 3 + 1]), head(hidden[1, 3 + 3])])[:, 0]
    torch.testing.assert_close(backbone.scores(sequences), wanted)


def test_a_mean_score_counts_prompt_and_response_and_no_padding(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4))
    per_token = backbone.heads["reward"](backbone.hidden(Role.reward, sequences))[..., 0]
    wanted = torch.stack([per_token[0, 1:5].mean(), per_token[1, 0:7].mean()])
    torch.testing.assert_close(backbone.scores(sequences, PoolingEnum.mean), wanted)


def test_values_stand_before_each_token_and_nowhere_on_padding(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4))
    hidden, head = backbone.hidden(Role.critic, sequences), backbone.heads["critic"]
    values = backbone.values(sequences)
    assert values[0, 2:].tolist() == [0.0, 0.0]
    torch.testing.assert_close(values[1], head(hidden[1, 2:6])[:, 0])


def test_a_role_can_take_over_another_roles_weights(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4))
    assert not torch.allclose(backbone.hidden(Role.reward, sequences), backbone.hidden(Role.critic, sequences))
    backbone.load_role(Role.critic, backbone.role_state(Role.reward))
    torch.testing.assert_close(backbone.hidden(Role.reward, sequences), backbone.hidden(Role.critic, sequences))


def test_nothing_keeps_a_backbone_whose_passes_were_not_learned_from(sequences: Sequences) -> None:
    backbone = make_backbone("llama", LoraConfig(rank=4), trained=(Role.policy, Role.critic))
    made = backbone.logprobs(Role.policy, sequences), backbone.values(sequences)
    assert all(one.requires_grad for one in made)
    del made
    left = weakref.ref(backbone)
    del backbone
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_weights_give_the_adapted_models_log_probs(name: str, sequences: Sequences) -> None:
    plain = make_model(name)
    target = copy.deepcopy(plain)
    backbone = make_backbone(name, LoraConfig(rank=4, top_layers=2))
    backbone.merged_into(target, Role.policy)
    assert all(p.is_contiguous() for p in target.parameters())
    ids = torch.cat([sequences.prompt_ids, sequences.response_ids], 1)[1:]
    with torch.no_grad():
        merged = target(input_ids=ids).logits.log_softmax(-1)[0, 2:6].gather(1, ids[0, 3:, None])[:, 0]
    torch.testing.assert_close(merged, backbone.logprobs(Role.policy, sequences)[1].detach(), rtol=1e-4, atol=1e-4)


def test_targets_that_the_model_lacks_are_refused_with_their_name() -> None:
    with pytest.raises(UserError, match=r"model\.lora\.targets=nothing_here"):
        make_backbone("llama", LoraConfig(targets="nothing_here"))


def test_more_adapted_layers_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match=r"top_layers=9.*4 layers"):
        make_backbone("llama", LoraConfig(top_layers=9))


def test_rated_snippets_are_cut_to_the_positions_of_the_model_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / TEXTS).write_text("".join(f"{i}\t0\t{word} {'film ' * 30}\n" for i, word in enumerate("abc")), "utf-8")
    ratings = "".join(f"{i}\t0\t0\t[{2 * i}, {2 * i}, {2 * i}]\n" for i in range(3))
    (tmp_path / RATINGS).write_text(ratings, "utf-8")
    tokenizer = wordwise(["a", "b", "c", "film"])
    tokenizer.pad_token = "<unk>"
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_embd=32, n_head=4, n_positions=16)
    model = AutoModelForCausalLM.from_config(config).eval()
    role = [Role.reward]
    backbone = Backbone(model, tokenizer, LoraConfig(rank=4, top_layers=1), role, role)
    entry: Any = SimpleNamespace(path=tmp_path)
    snippets, pairs, _ = rated_pairs(entry, backbone, 4)
    assert snippets.counted.sum(-1).tolist() == [16, 16, 16]
    assert pairs
    assert (snippets.response_ids[:, -1] == backbone.eos_id).all()
    assert torch.isfinite(backbone.scores(snippets)).all()
