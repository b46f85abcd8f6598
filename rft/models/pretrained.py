"""The pretrained model a study starts from: an asset, a local folder or a hub id, normalised into the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import UserError
from rft.models.attention import attend_in_groups
from rft.models.lean import keep_less
from rft.models.located import local_folder
from rft.store import Entry, Store
from rft.store.assets import ASSETS, asset_key, fetch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    enabled: bool = True
    """Train adapters on frozen weights shared by policy, critic, reward model and reference; else full copies."""
    rank: int = 16
    """Rank r of the update B·A."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: str = "all-linear"
    """Modules that get an adapter: all-linear, or names separated by commas."""
    top_layers: int = 0
    """Adapters in the last so many layers only; 0: in all. The layers below are then the same for every role: their
    output is computed once for policy, reference, reward model, critic and all passes, and needs no backward."""


@dataclass
class Config:
    """Where a model comes from."""

    asset: str | None = None
    """Name of a model asset (`rft assets ls`)."""
    path: str | None = None
    """A local folder or a hub id, instead of an asset."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""


def distinct_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a pad token other than EOS: masks are positional, but a reader should see the difference.

    Raises:
        UserError: if the tokenizer has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("model: its tokenizer has no EOS token; set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        for other in (tokenizer.unk_token, tokenizer.bos_token):
            if other is not None and other != tokenizer.eos_token:
                tokenizer.pad_token = other
                return
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0 if tokenizer.eos_token_id != 0 else 1)


def load_folder(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with its tokenizer from a folder of safetensors, in evaluation mode (dropout off)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    attend_in_groups(model)
    keep_less(model)
    return model.eval(), tokenizer


@contextmanager
def _read_once() -> Iterator[None]:
    """While open, transformers parses a GGUF file once, not for config, weights and tokenizer each.

    Nor does it make the table of all names of weights anew for each module.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """Takes its hundreds of thousands of slices from a plain array: each of a memory map costs more."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, made in {**own, "GGUFReader": Reader}.items():
        setattr(gguf, name, cache(made))
    try:
        yield
    finally:
        for name, made in own.items():
            setattr(gguf, name, made)


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer as safetensors and JSON."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Pretrained:
    """A model that exists already: `model=smollm2` or `model=hf model.path=…`.

    Args:
        config: where it comes from.
        store: where it is kept.
        key: what the settings stand under, for what is said when they are wrong.
    """

    version = 1

    def __init__(self, config: Config, store: Store, key: str = "model") -> None:
        if (config.asset is None) == (config.path is None):
            raise UserError(f"{key}: give one of {key}.asset (see `rft assets ls`) and {key}.path (folder or hub id)")
        self.config, self.store, self.key = config, store, key

    def prepare(self) -> Entry:
        """The store entry with config, tokenizer and safetensors."""
        if self.config.asset is not None:
            asset = fetch(self.store, self.config.asset)
            build: Callable[[Path], dict[str, Any]] = lambda out: self._from_gguf(asset.path, out)  # noqa: E731
            return self.store.get_or_compute(
                "model", version=self.version, config={}, inputs={"asset": asset.key}, build=build
            )
        return self.store.get_or_compute(
            "model", version=self.version, config=self._identity(), inputs={}, build=self._from_path
        )

    def _identity(self) -> dict[str, Any]:
        """What tells this model from another: the hashes of a folder's files, or the hub id with its revision."""
        folder = local_folder(str(self.config.path), self.key)
        if folder is None:
            return {"hub": self.config.path, "revision": self.config.revision}
        files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".model", ".txt", ".jinja"})
        return {"files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}}

    def _from_gguf(self, folder: Path, out: Path) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        gguf = next(folder.rglob("*.gguf"), None)
        if gguf is None:
            raise UserError(f"{self.key}.asset={self.config.asset}: holds no GGUF file; choose a model asset")
        where = {"gguf_file": gguf.name, "local_files_only": True}
        os.environ["TQDM_DISABLE"] = "1"  # the conversion's own bar does not ask whether the output is a terminal
        with _read_once():
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype="float32", **where)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        vars(model).pop("hf_quantizer", None)
        vars(model)["is_quantized"] = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        return self._save(model, tokenizer, out)

    def _from_path(self, out: Path) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        where: dict[str, Any] = {
            "revision": self.config.revision,
        }
        try:
            model = AutoModelForCausalLM.from_pretrained(
                str(self.config.path), dtype="auto", use_safetensors=True, **where
            )
            tokenizer = AutoTokenizer.from_pretrained(self.config.path, **where)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.key}.path={self.config.path}: {str(error).splitlines()[0]}; give a folder or hub id of a "
                "causal language model with safetensors"
            ) from error
        return self._save(model, tokenizer, out)

    @staticmethod
    def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> dict[str, Any]:
        import torch

        distinct_pad(tokenizer)
        model.config.pad_token_id = tokenizer.pad_token_id
        if model.generation_config is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        save_folder(model, tokenizer, out)
        return {"parameters": sum(p.numel() for p in model.parameters())}


def made_from_asset(store: Store, name: str) -> Entry | None:
    """The entry of an asset's model, its files unchecked, if the store has it already."""
    if name not in ASSETS:
        return None
    inputs = {"asset": asset_key(ASSETS[name])}
    return store.peek("model", store.key("model", Pretrained.version, {}, inputs))
