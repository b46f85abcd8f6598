"""Sampling is what the model says: against ``generate``, against exact probabilities, and row by row.

Dimensions: ``B`` sequences, ``R`` response tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from rft.ops.sampling import sample
from rft.rollout import RolloutEngine, pad_prompts, rows_at_once, uniforms

EOS, PAD, VOCABULARY = 2, 0, 16
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
LAYERS = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, **LAYERS, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SMALL, **LAYERS, num_key_value_heads=2),
    "gpt2": GPT2Config(**SMALL, n_layer=2, n_embd=32, n_head=4, n_positions=64),
}
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12]]
CPU = torch.device("cpu")


def make_engine(name: str) -> RolloutEngine:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # away from uniform, so that a wrong position or mask changes the answer
    return RolloutEngine(model, EOS, PAD)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_equal_those_of_generate(name: str) -> None:
    engine = make_engine(name)
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    wanted = engine.model.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=8, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
    )[:, ids.shape[1] :]
    got = engine.generate(ids, mask, torch.full((3, 8), 0.5), temperature=1e-4)  # so cold that one token is certain
    width = got.response_ids.shape[1]
    assert torch.equal(torch.where(got.response_mask, got.response_ids, PAD), wanted[:, :width])
    assert bool((wanted[:, width:] == PAD).all())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_have_the_models_distribution(temperature: float) -> None:
    engine = make_engine("llama")
    rows = 4000
    ids, mask = pad_prompts([PROMPTS[0]] * rows, PAD, CPU)
    drawn = engine.generate(ids, mask, uniforms(rows, 1, 0), temperature).response_ids[:, 0]
    with torch.no_grad():
        p = (engine.model(input_ids=ids[:1]).logits[0, -1] / temperature).double().softmax(-1).numpy()
    counts = torch.bincount(drawn, minlength=VOCABULARY).numpy()
    common = p * rows >= 5  # the chi-square approximation wants five expected a cell; the rest is one cell
    observed = np.array([*counts[common], counts[~common].sum()])
    expected = np.array([*(p[common] * rows), p[~common].sum() * rows])
    cells = expected > 0
    assert chisquare(observed[cells], expected[cells], sum_check=False).pvalue > 1e-3


def test_one_uniform_number_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(5, -1)
    numbers = torch.tensor([0.0, 0.19, 0.21, 0.51, 0.999999], dtype=torch.float64)
    assert sample(logits, numbers, 1.0).tolist() == [0, 0, 1, 2, 2]


def test_a_token_without_probability_is_never_drawn_at_either_end() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, -1)
    assert sample(logits, torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64), 1.0).tolist() == [1, 1]


def test_a_response_does_not_depend_on_its_batch_or_on_the_padding_of_its_prompt() -> None:
    engine = make_engine("llama")
    numbers = uniforms(3, 8, 7)
    ids, mask = pad_prompts(PROMPTS, PAD, CPU)
    together = engine.generate(ids, mask, numbers, 1.0)
    for i, prompt in enumerate(PROMPTS):
        alone = engine.generate(*pad_prompts([prompt], PAD, CPU), numbers[i : i + 1], 1.0)
        counted = together.response_ids[i][together.response_mask[i]]
        assert alone.response_ids[0][alone.response_mask[0]].tolist() == counted.tolist()


def test_eos_is_the_last_counted_token_and_what_follows_is_padding() -> None:
    engine = make_engine("llama")
    ids, mask = pad_prompts([PROMPTS[0]] * 200, PAD, CPU)
    seq = engine.generate(ids, mask, uniforms(200, 12, 5), 1.5)
    truncated = seq.truncated(EOS)
    assert 0 < int(truncated.sum()) < 200
    for row in range(200):
        counted = seq.response_ids[row][seq.response_mask[row]].tolist()
        assert EOS not in counted[:-1]
        assert (counted[-1] == EOS) is not bool(truncated[row])
        assert len(counted) == 12 or counted[-1] == EOS
        assert seq.response_ids[row][~seq.response_mask[row]].tolist() == [PAD] * (
            seq.response_ids.shape[1] - len(counted)
        )


def test_sampling_numbers_come_from_the_seed_and_the_row_alone() -> None:
    assert torch.equal(uniforms(4, 6, 1, 2)[:2], uniforms(2, 6, 1, 2))
    assert torch.equal(uniforms(4, 9, 1, 2)[:, :6], uniforms(4, 6, 1, 2))
    assert not torch.equal(uniforms(4, 6, 1, 2), uniforms(4, 6, 1, 3))


@pytest.mark.parametrize(
    ("row_tokens", "wanted"), [(1, 512), (32, 512), (33, 496), (128, 128), (256, 64), (257, 64), (100_000, 64)]
)
def test_short_responses_are_drawn_in_larger_batches(row_tokens: int, wanted: int) -> None:
    assert rows_at_once(row_tokens) == wanted
