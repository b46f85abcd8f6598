"""A model from a GGUF file: its weights, and how often the file is read."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft.models.pretrained import Config, Pretrained
from rft.store import Store

WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 32, 64, 2, 2, 1


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A small Llama with an alphabet of bytes; returns its tensors by their names in the file."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<end>"]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(words) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(words) - 1)
    keys = WIDTH * KV_HEADS // HEADS
    shapes = {"token_embd.weight": (len(words), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (WIDTH,),
                "attn_q": (WIDTH, WIDTH),
                "attn_k": (keys, WIDTH),
                "attn_v": (keys, WIDTH),
                "attn_output": (WIDTH, WIDTH),
                "ffn_norm": (WIDTH,),
                "ffn_gate": (INNER, WIDTH),
                "ffn_up": (INNER, WIDTH),
                "ffn_down": (WIDTH, INNER),
            }.items()
        }
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_file_is_read_once_and_becomes_a_folder_of_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = write_gguf(tmp_path / "small.gguf")
    read = list[str]()

    class Counting(gguf.GGUFReader):
        def __init__(self, path: str, *given: object) -> None:
            read.append(Path(path).name)
            super().__init__(path, *given)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    (out := tmp_path / "out").mkdir()
    names = gguf.get_tensor_name_map
    Pretrained(Config(asset="smollm2-135m-instruct"), Store(tmp_path / "store"))._from_gguf(tmp_path, out)
    assert read == ["small.gguf"]
    assert gguf.GGUFReader is Counting
    assert gguf.get_tensor_name_map is names
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for layer in range(LAYERS):
        for ours, theirs in (
            ("mlp.up_proj", "ffn_up"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
        ):
            made = model.get_submodule(f"model.layers.{layer}.{ours}").weight
            wanted = torch.from_numpy(tensors[f"blk.{layer}.{theirs}.weight"]).bfloat16().float()
            assert torch.equal(made, wanted)
    assert torch.equal(
        model.get_input_embeddings().weight, torch.from_numpy(tensors["token_embd.weight"]).bfloat16().float()
    )
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.eos_token == "<end>"
    assert tokenizer.decode(tokenizer("ab c")["input_ids"]) == "ab c"
