"""What TRL's trainers want to be given before they compute a loss: a tokenizer, small models, a data set.

Imported by the scripts of TRL's environments only.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, SequenceClassifierOutput

WORDS, PAD, EOS = 14, 14, 15
VOCABULARY = WORDS + 2


def tokenizer() -> PreTrainedTokenizerFast:
    """Words "w0" to "w13", a padding token and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(WORDS)} | {"<pad>": PAD, "<eos>": EOS}
    model = Tokenizer(models.WordLevel(words, unk_token="w0"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<eos>", unk_token="w0", padding_side="left"
    )


def config() -> LlamaConfig:
    """One layer; weights large enough that its probabilities are far from uniform."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def policy(seed: int = 0) -> LlamaForCausalLM:
    """A randomly initialised policy that never samples the padding token."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config())
    head = torch.nn.Linear(16, VOCABULARY)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()[PAD] = -1e4
    model.lm_head = head
    return model


def scorer(seed: int) -> LlamaForSequenceClassification:
    """A randomly initialised reward or value model."""
    torch.manual_seed(seed)
    about = config()
    about.num_labels = 1
    return LlamaForSequenceClassification(about)


def rows(count: int, **columns: str) -> Dataset:
    """A data set of equal rows: the trainers want one, the losses never read it."""
    return Dataset.from_dict({name: [text] * count for name, text in columns.items()})


class Bigram(torch.nn.Module):
    """A language model whose logits are a table's row of the token before: any tensor can be its prediction.

    Its hidden states are one-hot tokens and its head is the table, for callers that multiply the two themselves.
    """

    def __init__(self, table_VV: Tensor) -> None:
        super().__init__()
        self.table_VV = torch.nn.Parameter(table_VV)
        self.config = config()

    def base_model(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        one_hot = torch.nn.functional.one_hot(input_ids, len(self.table_VV))
        return BaseModelOutput(last_hidden_state=one_hot.to(self.table_VV.dtype))

    def get_output_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self.table_VV.T, bias=None)

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table_VV[input_ids])


class Scores(torch.nn.Module):
    """A reward model that gives the scores it was made with, row by row."""

    def __init__(self, scores_B: Tensor) -> None:
        super().__init__()
        self.scores_B = torch.nn.Parameter(scores_B)
        self.config = config()

    def forward(self, input_ids: Tensor, **_: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.scores_B[:, None])
