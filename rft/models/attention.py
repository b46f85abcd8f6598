"""Attention of short sequences as two batched products a group of heads, and of sequences packed without padding.

torch's fused kernel for CPUs is made for long sequences: at 96 tokens its backward takes five times as long as plain
products do, of which none repeats a key for the heads of its group.
Dimensions: ``B`` sequences, ``T`` tokens, ``L`` of them a prompt's, ``N`` counted tokens of all, those that sequences
share once, ``H`` query heads, ``K`` key and value heads, ``P`` sequences × ``K``, ``D`` head width.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rft.models.decoder import windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rft.models.branches import Branches
    from rft.types import Sequences

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


class _Moved(torch.autograd.Function):
    """Rows of a matrix in other places, some of them more than once; but for these the way back is a copy too.

    Args of forward: ``x`` [rows, …]; ``sources``, the row for each new place; ``firsts``, for each row a place that has
    it, and the ``others`` that have one too, or none; ``blank``, the places that get zero instead, or none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sources: Tensor, firsts: Tensor, others: Tensor, blank: Tensor) -> Tensor:
        ctx.places = sources, firsts, others
        moved = x.index_select(0, sources)
        return moved.index_fill_(0, blank, 0.0) if len(blank) else moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        sources, firsts, others = ctx.places
        grad = grads[0].index_select(0, firsts)
        if len(others):
            grad.index_add_(0, sources[others], grads[0].index_select(0, others))
        return grad, None, None, None, None


class _Picked(torch.autograd.Function):
    """Some rows of a matrix, each at most once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.shape = rows, x.shape
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.rows, grads[0]), None


class Packing:
    """The counted tokens of a batch side by side, as one row without padding; only attention sees the batch.

    A prompt that several rows have stands there once: what a causal layer gives at its tokens is the same in all.

    Args:
        mask_BT: bool, true on counted tokens.
        prompt_BL: ids of the first L tokens of each row; rows that agree in them and in what counts of them share them.
            None: no row shares anything.
    """

    def __init__(self, mask_BT: Tensor, prompt_BL: Tensor | None = None) -> None:
        self._shape = mask_BT.shape
        kept_BT, owner_BT = mask_BT, torch.arange(mask_BT.numel(), device=mask_BT.device).view(mask_BT.shape)
        if prompt_BL is not None:
            width = prompt_BL.shape[1]
            first_B = _first_alike(prompt_BL.masked_fill(~mask_BT[:, :width], -1))
            repeats_B = first_B != torch.arange(len(first_B), device=first_B.device)
            owner_BT[:, :width] = owner_BT[:, :width][first_B]
            kept_BT = mask_BT.clone()
            kept_BT[:, :width] &= ~repeats_B[:, None]
        kept, owner = kept_BT.flatten(), owner_BT.flatten()
        self._place_N = kept.nonzero()[:, 0]
        number = kept.long().cumsum(0) - 1
        # Padding gets some token's row, which is then made zero.
        self._sources = number[owner].clamp(min=0)
        self._others = (mask_BT.flatten() & ~kept).nonzero()[:, 0]
        self._blank = (~mask_BT.flatten()).nonzero()[:, 0]
        self.positions_1N = self.pack((mask_BT.long().cumsum(-1) - 1)[..., None])[..., 0]
        self._mask_BT = mask_BT

    @cached_property
    def mask_B1TT(self) -> Tensor:
        """True where a token sees another."""
        places = torch.arange(self._shape[1], device=self._mask_BT.device)
        # Padding sees itself: a row that sees nothing has no softmax.
        sees = (places[:, None] > places) & self._mask_BT[:, None] | (places[:, None] == places)
        return sees[:, None]

    def __len__(self) -> int:
        return len(self._place_N)

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, …] to [1, N, …]; of tokens that rows share those of the first."""
        packed: Tensor = _Picked.apply(x.reshape(-1, *x.shape[2:]), self._place_N)  # type: ignore[no-untyped-call]
        return packed[None]

    def spread(self, x: Tensor) -> Tensor:
        """[1, N, …] to [B, T, …], zero where nothing is counted."""
        places = self._sources, self._place_N, self._others, self._blank
        whole: Tensor = _Moved.apply(x[0], *places)  # type: ignore[no-untyped-call]
        return whole.view(*self._shape, *x.shape[2:])

    @contextmanager
    def attending(self) -> Iterator[None]:
        """While open, attention takes its rows for packed ones."""
        token = _packing.set(self)
        try:
            yield
        finally:
            _packing.reset(token)


def _first_alike(rows: Tensor) -> Tensor:
    """For each row the first that is equal to it. Shapes [B, L] and [B]."""
    kinds, which_B = torch.unique(rows, dim=0, return_inverse=True)
    places_B = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(kinds),), len(rows), device=rows.device).scatter_reduce_(0, which_B, places_B, "amin")
    return first[which_B]


def packed(seq: Sequences, longest: int, worth: float) -> Packing | None:
    """The packing of a batch, if there is one and it is worth it.

    Prompts are shared where attention is ours: a mask in place of a causal pass costs fused kernels more.

    Args:
        seq: rows.
        longest: row that may be packed, as `longest_packed` says.
        worth: most tokens that may be left, as a share of those with padding and repeated prompts.
    """
    mask_BT = seq.counted
    if mask_BT.shape[1] > longest or not bool(mask_BT.any()):
        return None
    shares = mask_BT.device.type == "cpu" and mask_BT.shape[1] <= LONGEST and seq.prompt_ids.shape[1] > 0
    packing = Packing(mask_BT, seq.prompt_ids if shares else None)
    return packing if len(packing) <= worth * mask_BT.numel() else None


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
