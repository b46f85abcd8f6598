"""Whether the decode loop computes what the model does, tried on a few tokens.

Dimensions: ``B`` sequences, ``T`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rft.models.decoder import decoder_layers
from rft.rollout.decoding import Decoding
from rft.rollout.structure import Structure, UnknownStructureError, read_structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS, STEPS = (7, 7, 4), 2  # prompt tokens of each row, the first two alike; tokens after them
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3}
SHORT_ROUNDING = 0.1  # of 16-bit types
_tried: set[tuple[object, ...]] = set()
"""Kinds of models that the loop has been found right for in this process."""


@contextmanager
def magnified(model: PreTrainedModel) -> Iterator[set[int]]:
    """While open, small weights are as large as those of a trained model, so that every part makes a difference.

    Gives the addresses in memory of those that are changed: most of a random start's, few of a trained model's.

    A random start has weights so small that attention hardly matters, and a wrong position would pass for rounding.
    They are multiplied by powers of two, which is undone to the bit.
    """
    changed: list[tuple[Tensor, float]] = []
    for parameter in model.parameters():
        weight = parameter.data
        if weight.ndim != 2:
            continue
        # A square matrix with entries of size 1 / √rows gives outputs as large as its inputs. The norm is summed up in
        # float32 whatever the type, and one that is too large for the type is that of large weights.
        size = float(torch.linalg.vector_norm(weight)) / weight.numel() ** 0.25
        if 0 < size < 1:
            changed.append((weight, 2.0 ** round(1 - math.log2(size))))
    try:
        for weight, factor in changed:
            weight.mul_(factor)
        yield {weight.data_ptr() for weight, _ in changed}
    finally:
        for weight, factor in changed:
            weight.div_(factor)


def _tokens(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T], padded on the left."""
    device, width = next(model.parameters()).device, max(LENGTHS) + STEPS
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(vocabulary, (len(LENGTHS), width), generator=torch.Generator().manual_seed(0)).to(device)
    ids[1, : LENGTHS[0]] = ids[0, : LENGTHS[0]]
    begins = max(LENGTHS) - torch.tensor(LENGTHS, device=device)
    return ids, torch.arange(width, device=device) >= begins[:, None]


def _passed(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """What the model makes of each row alone: before and after every block, and the logits. Each [B, T, …]."""
    rows: list[list[Tensor]] = []

    def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows[-1].append(given[0] if given else named["hidden_states"])

    def after(_: nn.Module, __: tuple[Any, ...], made: Any) -> None:
        rows[-1].append(made if isinstance(made, Tensor) else made[0])

    layers = decoder_layers(model)
    watches = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    watches += [layer.register_forward_hook(after) for layer in layers]
    try:
        for row, counted in zip(ids, mask, strict=True):
            rows.append([])
            rows[-1].append(model(input_ids=row[counted][None], use_cache=False).logits)
    finally:
        for watch in watches:
            watch.remove()
    width = ids.shape[1]
    return [torch.cat([functional.pad(x, (0, 0, width - x.shape[1], 0)) for x in xs]) for xs in zip(*rows, strict=True)]


def _error(structure: Structure, ids: Tensor, mask: Tensor, wanted: Tensor, start: Tensor | None = None) -> float:
    """Size of what the loop gets wrong, in the size of what is wanted; if ``start`` is given, of the change from it."""
    prompt = max(LENGTHS)
    decoding = Decoding(structure, ids[:, :prompt], mask[:, :prompt], STEPS)
    rows = torch.arange(len(ids), device=ids.device)
    got, places = [decoding.prefill()], [(rows, prompt - 1)]
    for t in range(prompt, prompt + STEPS):
        if t == prompt + STEPS // 2:
            rows = rows[decoding.keep(rows != 0)]
        got.append(decoding.step(ids[rows, t]))
        places.append((rows, t))
    meant = torch.cat([wanted[place] for place in places]).double()
    change = meant if start is None else meant - torch.cat([start[place] for place in places]).double()
    return float((torch.cat(got).double() - meant).norm() / change.norm())


def _at(inputs: Tensor, places: Tensor, _: Tensor) -> Tensor:
    """What the model put into a block, as the embedding of the places it stood at."""
    return inputs[places]


def _at_end(x: Tensor) -> Tensor:
    """What comes out of a block, as it is."""
    return x


def discrepancy(model: PreTrainedModel, structure: Structure) -> float:
    """The largest relative error of the loop's logits and of each block's change, given the model's own inputs to it.

    Blocks are looked at one by one because rounding adds up over them, and one that differs is lost among many.
    """
    ids, mask = _tokens(model)
    *states, logits = _passed(model, ids, mask)
    errors = [_error(structure, ids, mask, logits)]
    places = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    for block, start, end in zip(structure.blocks, states[::2], states[1::2], strict=True):
        alone = replace(structure, blocks=[block], embed=partial(_at, start.flatten(0, 1)), logits=_at_end)
        errors.append(_error(alone, places, mask, end, start))
    return max(errors, key=lambda error: inf if isnan(error) else error)


@torch.inference_mode()
def known_structure(model: PreTrainedModel) -> Structure:
    """The model's structure, if the decode loop over it computes what the model does.

    That is tried once in a process for a class with its configuration, whatever the weights are.

    Raises:
        UnknownStructureError: if not.
    """
    structure = read_structure(model)
    config = model.config
    kind = (type(model), config.to_json_string(), config._attn_implementation, model.dtype, model.device)
    if kind in _tried:
        return structure
    with magnified(model) as changed:
        structure.take_at(changed)
        error = discrepancy(model, structure)
    structure.take_at(changed)
    if not error < ROUNDING.get(model.dtype, SHORT_ROUNDING):
        raise UnknownStructureError(f"the decode loop differs from the model's forward pass by {error:.2g}")
    _tried.add(kind)
    return structure
