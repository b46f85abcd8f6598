"""Tokens as text. Dimensions: ``B`` rows, ``T`` tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def decoded(tokenizer: PreTrainedTokenizerBase, ids_BT: Tensor, mask_BT: Tensor) -> list[str]:
    """The counted tokens of each row as text, without special tokens."""
    rows = [ids[mask].tolist() for ids, mask in zip(ids_BT, mask_BT, strict=True)]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
