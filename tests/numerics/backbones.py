"""Small real models of several architectures, and backbones on them whose adapters do something."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig

EOS, PAD, VOCABULARY = 2, 0, 64
TOKENIZER: Any = SimpleNamespace(eos_token_id=EOS, pad_token_id=PAD)
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
LAYERS = {"num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, **LAYERS, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, **LAYERS, num_key_value_heads=2),
    "gpt2": GPT2Config(**SMALL, n_layer=4, n_embd=32, n_head=4, n_positions=64),
}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    return model


def make_backbone(
    name: str,
    lora: LoraConfig,
    trained: tuple[Role, ...] = (Role.policy,),
    model: PreTrainedModel | None = None,
) -> Backbone:
    """All roles on `model`, or on a new one of that name."""
    backbone = Backbone(model or make_model(name), TOKENIZER, lora, list(Role), trained, seed=1)
    with torch.no_grad():  # LoRA's B starts at zero; an adapter that does nothing would hide every mistake
        for parameter_name, parameter in backbone.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(parameter_name)))
    return backbone
