"""Small real tokenizers whose tokens can be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def bytewise() -> PreTrainedTokenizerFast:
    """Every byte is a token, and so is a full stop with its closing quote."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<eos>", *alphabet, '."'])}, merges=[(".", '"')]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def sentencepiece_like(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Blanks are part of the word that follows, and a text's first one is lost in decoding."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(special_tokens=["<eos>", "<unk>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", unk_token="<unk>")


def wordwise(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Every word and every punctuation mark is a token; a word that is not in `words` is unknown."""
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<eos>", "<unk>", *words])}, "<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=level, eos_token="<eos>", unk_token="<unk>")
