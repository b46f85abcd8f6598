"""Attention of short sequences as two batched products a group of heads, and of sequences packed without padding.

torch's fused kernel for CPUs is made for long sequences: at 96 tokens its backward takes five times as long as plain
products do, of which none repeats a key for the heads of its group.
Dimensions: ``B`` sequences, ``T`` tokens, ``N`` counted tokens of all, ``H`` query heads, ``K`` key and value heads,
``P`` sequences × ``K``, ``D`` head width.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rft.models.decoder import windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rft.models.branches import Branches

NAME = "rft_grouped"
LONGEST = 512  # tokens; above, the scores no longer fit into a processor's cache, and the fused kernel is as fast


def grouped_attention(
    q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, mask_B1TT: Tensor | None, scaling: float
) -> Tensor:
    """softmax(scaling q·k) v, causal where no mask is given. Shape [B, T, H, D].

    Args:
        q_BHTD: queries.
        k_BKTD: keys, H a multiple of K.
        v_BKTD: values.
        mask_B1TT: bool, true where a token sees another; its first dimension may be 1.
        scaling: of the products.
    """
    batch, heads, tokens, width = q_BHTD.shape
    kv_heads = k_BKTD.shape[1]
    pairs, group = batch * kv_heads, heads // kv_heads
    k_PTD, v_PTD = (x.reshape(pairs, tokens, width) for x in (k_BKTD, v_BKTD))
    scores = torch.bmm((q_BHTD * scaling).reshape(pairs, group * tokens, width), k_PTD.transpose(1, 2))
    if mask_B1TT is None:
        mask_B1TT = torch.ones(tokens, tokens, dtype=torch.bool, device=q_BHTD.device).tril()[None, None]
    # Not infinite: padding that sees nothing must not become NaN, which its neighbours would multiply by zero.
    least = torch.finfo(q_BHTD.dtype).min
    hidden_B1TT = torch.zeros_like(mask_B1TT, dtype=q_BHTD.dtype).masked_fill_(~mask_B1TT, least)
    weights = torch.softmax(scores.view(batch, heads, tokens, tokens) + hidden_B1TT, -1)
    mixed = torch.bmm(weights.view(pairs, group * tokens, tokens), v_PTD)
    return mixed.view(batch, heads, tokens, width).transpose(1, 2).contiguous()


class Packing:
    """The counted tokens of a batch side by side, as one row without padding; only attention sees the batch.

    Args:
        mask_BT: bool, true on counted tokens.
    """

    def __init__(self, mask_BT: Tensor) -> None:
        self._shape = mask_BT.shape
        self._place_N = mask_BT.flatten().nonzero()[:, 0]
        self.positions_1N = self.pack((mask_BT.long().cumsum(-1) - 1)[..., None])[..., 0]
        places = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        # Padding sees itself: a row that sees nothing has no softmax.
        sees = (places[:, None] > places) & mask_BT[:, None] | (places[:, None] == places)
        self.mask_B1TT = sees[:, None]

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, …] to [1, N, …]."""
        return x.reshape(-1, *x.shape[2:])[self._place_N][None]

    def spread(self, x: Tensor) -> Tensor:
        """[1, N, …] to [B, T, …], zero where nothing is counted."""
        whole = x.new_zeros(self._shape.numel(), *x.shape[2:])
        return whole.index_copy(0, self._place_N, x[0]).view(*self._shape, *x.shape[2:])

    @contextmanager
    def attending(self) -> Iterator[None]:
        """While open, attention takes its rows for packed ones."""
        token = _packing.set(self)
        try:
            yield
        finally:
            _packing.reset(token)


_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)
_branches: ContextVar[Branches | None] = ContextVar("branches", default=None)


@contextmanager
def branching(branches: Branches) -> Iterator[None]:
    """While open, attention takes its one row for texts that branch off from each other."""
    token = _branches.set(branches)
    try:
        yield
    finally:
        _branches.reset(token)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """What transformers calls: queries, keys and values [B, heads, T, D], the result [B, T, heads, D]."""
    if (branches := _branches.get()) is not None:
        return branches.attend(module, query, key, value, **given), None
    if (packing := _packing.get()) is None:
        return _attend_whole(module, query, key, value, attention_mask, **given)
    q, k, v = (packing.spread(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
    mixed, _ = _attend_whole(module, q, k, v, packing.mask_B1TT, **given)
    return packing.pack(mixed), None


def _attend_whole(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Whatever is no whole short sequence on a CPU goes the usual way."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    tokens = query.shape[2]
    causal = given.get("is_causal") is not False and getattr(module, "is_causal", True)
    plain = not given.get("dropout") and given.get("softcap") is None and (causal or attention_mask is not None)
    if query.device.type != "cpu" or tokens != key.shape[2] or not 1 < tokens <= LONGEST or not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    scaling = given.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return grouped_attention(query, key, value, attention_mask, scaling), None


def attend_in_groups(model: PreTrainedModel) -> None:
    """Let a model that uses torch's fused kernels attend so where sequences are short."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def longest_packed(model: PreTrainedModel, layers: int) -> int:
    """How long sequences may be of which the tokens stand in one row: 0 if none may.

    They may where tokens meet in attention alone, which is ours, and no window of it cuts a sequence off.

    Args:
        model: after ``attend_in_groups``.
        layers: how many it has.
    """
    takes_positions = "position_ids" in inspect.signature(model.get_decoder().forward).parameters
    found = windows(model)
    if model.config._attn_implementation != NAME or not takes_positions or found is None or len(found) != layers:
        return 0
    return min((window for window in found if window is not None), default=sys.maxsize)
