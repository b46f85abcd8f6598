"""A sequence classifier as judge against one plain forward pass for each text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rft.config import compose
from rft.errors import UserError
from rft.feedback.base import Answer
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.reward_model import Config, RewardModelJudge
from rft.store import Store
from rft.strategy import AcceleratorEnum, PrecisionEnum, Strategy
from rft.strategy import Config as StrategyConfig
from rft.testing.parts_judge import judge_rows
from tests.tokenizers import bytewise
from tests.unit.test_judge import unkept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS = [
    Answer("The film ", "was good."),
    Answer("The film ", ""),
    Answer("", ""),
    Answer("", "Bad."),
    Answer("And then ", "it went on and on and on, with nothing to see and nobody to care about at all."),
    Answer("naïve ", "“art” {x}<eos>"),
]
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def save(folder: Path, *, template: str | None = None, kind: Any = LlamaForSequenceClassification, **more: Any) -> Path:
    """A random classifier over bytes; large weights, so that scores differ by far more than the tolerance."""
    tokenizer = bytewise()
    tokenizer.chat_template = template
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "initializer_range": 0.3, **SHAPE}
    model = kind(LlamaConfig(**settings | {"num_labels": 1, "pad_token_id": None} | more))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def strategy() -> Strategy:
    return Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, precision=PrecisionEnum.fp32))


def judge(folder: Path, store: Path, **settings: Any) -> RewardModelJudge:
    config = Config(path=str(folder), **settings)
    return RewardModelJudge(config, RewardModelJudge.entries(config, Store(store)), strategy(), unkept())


def test_every_score_is_kept_and_found_again(tmp_path: Path) -> None:
    config, kept = Config(path=str(save(tmp_path / "model")), batch_size=2), KeptVerdicts(tmp_path / "v.sqlite", {})
    whole = judge(tmp_path / "model", tmp_path / "store", batch_size=2).score(ANSWERS)
    asked = RewardModelJudge(config, RewardModelJudge.entries(config, Store(tmp_path / "store")), strategy(), kept)
    first, second = asked.score(ANSWERS), asked.score(ANSWERS)
    for found, times in ((first, 0), (second, len(ANSWERS))):
        assert (found.scores.tolist(), found.raw, found.work.kept) == (whole.scores.tolist(), whole.raw, times)
    assert asked.asked_again().score(ANSWERS).work.kept == 0
    said = {tuple(turn["content"] for turn in row.request.messages): float(row.reply.text) for row in kept.rows()}
    assert said == {(a.prompt, a.response): score for a, score in zip(ANSWERS, first.scores.tolist(), strict=True)}


@torch.no_grad()
def slowly(folder: Path, answer: Answer, template: bool) -> list[float]:
    """All logits of one text alone, unpadded, by the library's own means."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    text = f"[user]{answer.prompt}<eos>[assistant]{answer.response}<eos>" if template else answer.text
    ids = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
    found: list[float] = model(torch.tensor([ids])).logits[0].tolist()
    return found


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("pad", [None, 0, 7])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_it_scores_as_one_plain_forward_a_text(
    tmp_path: Path, template: str | None, pad: int | None, batch_size: int
) -> None:
    folder = save(tmp_path / "model", template=template, pad_token_id=pad)
    wanted = [slowly(folder, answer, template is not None)[0] for answer in ANSWERS]
    got = judge(folder, tmp_path / "store", batch_size=batch_size).score(ANSWERS)
    np.testing.assert_allclose(got.scores, wanted, rtol=0, atol=1e-5)
    assert [raw["score"] for raw in got.raw] == got.scores.tolist()
    assert np.ptp(wanted) > 0.1


def test_of_two_labels_the_log_odds_of_the_good_one(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", num_labels=2, id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    logits = np.array([slowly(folder, answer, False) for answer in ANSWERS])
    for positive, sign in (("good", 1), ("bad", -1)):
        got = judge(folder, tmp_path / "store", positive=positive).score(ANSWERS).scores
        np.testing.assert_allclose(got, sign * (logits[:, 0] - logits[:, 1]), rtol=0, atol=1e-5)
    for positive, words in ((None, "two labels, good, bad; name"), ("goood", "did you mean 'good'")):
        with pytest.raises(UserError, match=words):
            judge(folder, tmp_path / "store", positive=positive)


def test_what_is_too_long_is_cut(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    short = judge(folder, tmp_path / "store", max_tokens=12).score(ANSWERS)
    cut = judge(folder, tmp_path / "store").score([Answer("", answer.text[:12]) for answer in ANSWERS[:5]])
    np.testing.assert_allclose(short.scores[:5], cut.scores, rtol=0, atol=1e-5)
    assert short.work.read == 12 + 9 + 1 + 4 + 12 + 12


def test_it_keeps_to_the_contract(tmp_path: Path) -> None:
    rows = judge_rows(judge(save(tmp_path / "model"), tmp_path / "store"))
    assert [row for row in rows if not row.ok] == []


def test_an_address_holds_the_files_and_not_where_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def key(folder: Path) -> str:
        (entry,) = RewardModelJudge.entries(Config(path=str(folder)), store).values()
        return entry.key

    first = key(save(tmp_path / "first"))
    assert key(save(tmp_path / "second")) == first
    assert key(save(tmp_path / "third", initializer_range=0.2)) != first
    assert {"path", "revision", "entry"} == RewardModelJudge.located


def refused(store: Path, **settings: Any) -> str:
    config = Config(**settings)
    with pytest.raises(UserError) as caught:
        RewardModelJudge(config, RewardModelJudge.entries(config, Store(store)), strategy(), unkept())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"
    three = save(tmp_path / "three", num_labels=3)
    assert "the model has 3 labels (LABEL_0, LABEL_1, LABEL_2)" in refused(store, path=str(three))
    policy = save(tmp_path / "policy", kind=LlamaForCausalLM)
    assert "has no weights for score.weight: it is no sequence classifier" in refused(store, path=str(policy))
    assert "judge.path=./nowhere: no such folder" in refused(store, path="./nowhere")
    assert "judge: give one of judge.path" in refused(store)
    one = save(tmp_path / "one")
    assert "judge.positive=good: the model has one score" in refused(store, path=str(one), positive="good")
    assert "no reward model in" in refused(store, entry="abcd")


def test_code_in_a_model_folder_is_not_run(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: ...\n", encoding="utf-8")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}
    settings |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert "judge.path=" in refused(tmp_path / "store", path=str(folder))
    assert not mark.exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    model = LlamaForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "no model there (config.json and *.safetensors)" in refused(tmp_path / "store", path=str(folder))


def test_settings_that_do_not_go_together_are_refused_when_composing() -> None:
    with pytest.raises(UserError, match=r"judge\.entry=ab: goes without judge\.path"):
        compose(["judge=reward_model", "judge.entry=ab", "judge.path=x"])
