"""The decode loop over a model's own parts: one prefill a prompt, a preallocated cache, finished sequences dropped.

What it spares against a loop over the model's forward: the prefill of a prompt's other samples, padding in the linear
layers of the prefill, three of seven matrix products a layer, the growth of the cache by concatenation, fused attention
kernels made for many queries, and the work on sequences that have ended.

Dimensions: ``B`` sequences, ``U`` different prompts, ``P`` prompt tokens, ``R`` response tokens, ``T`` columns of the
cache, ``N`` tokens of a pass, ``H`` hidden, ``D`` head width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rft.ops.sampling import Truncation, sample
from rft.rollout.structure import Block, Rotation, Structure

PREFILL_TOKENS = 8192  # of one pass; more at once needs more memory and is not faster
DROPPED_SHARE = 1 / 16  # of the slots, that must have ended before the others are moved together
Attend = Callable[[int, Block, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts, and how a response to each is sampled; fields as of ``RolloutEngine.generate``."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    uniform_BR: Tensor
    temperature: float
    truncation: Truncation
    eos_id: int
    pad_id: int
    depth: int = 0
    """Of how many of the lowest layers the output is wanted too."""

    def record(self) -> tuple[Tensor, Tensor]:
        """Responses to be filled in, and what counts of them. Both [B, R]."""
        shape, device = self.uniform_BR.shape, self.prompt_ids.device
        return torch.full(shape, self.pad_id, device=device), torch.zeros(shape, dtype=torch.bool, device=device)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Responses as they were sampled."""

    ids: Tensor
    """[B, R], padding after EOS."""
    counted: Tensor
    """[B, R] bool."""
    prefilled: Tensor
    """Tokens of each prompt that was passed through the model, once for all its samples. Shape [U]."""
    trunk: Tensor | None = None
    """[B, P + R, H] what the lowest layers gave at the counted tokens, zero elsewhere; None if it was not wanted."""


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions, halves paired (Su et al. 2021, arXiv 2104.09864, as in GPT-NeoX).

    Args:
        x: [N, heads, D].
        rotation: cosines and sines, each [N, 1, D].
    """
    cosines, sines = rotation
    half = x.shape[-1] // 2
    turned = x * cosines
    turned[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return turned


class Cache:
    """Keys and values of the sequences that go on, one slot each; tokens of all stand in the same columns.

    A prompt ends in the column before the first response token, so that a new token's column is the same for all.
    """

    def __init__(self, structure: Structure, slots: int, columns: int, like: Tensor) -> None:
        layers, kv_heads, width = len(structure.blocks), structure.kv_heads, structure.width
        # Keys lie with their columns side by side: so the product with one query a head reads them in order.
        self.keys = like.new_zeros(layers, slots, kv_heads, width, columns)
        self.values = like.new_zeros(layers, slots, kv_heads, columns, width)

    def fill(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor, end: int) -> None:
        """Write prompts [slots, P, KV heads, D] before column ``end``."""
        columns = slice(end - keys.shape[1], end)
        self.keys[layer][slots, :, :, columns] = keys.permute(0, 2, 3, 1)
        self.values[layer][slots, :, columns] = values.transpose(1, 2)

    def move(self, sources: Tensor, targets: Tensor, columns: slice) -> None:
        """Copy some slots over others."""
        self.keys[:, targets, :, :, columns] = self.keys[:, sources, :, :, columns]
        self.values[:, targets, :, columns] = self.values[:, sources, :, columns]


class Decoding:
    """A batch between two tokens: sequences that go on have a slot each.

    Args:
        structure: the model.
        prompt_ids: [B, P], left-padded.
        prompt_mask: [B, P] bool, true in the last column.
        limit: most response tokens.
        depth: of how many of the lowest layers the output of each pass is noted.

    Raises:
        ValueError: if a prompt has no token at its end.
    """

    def __init__(
        self, structure: Structure, prompt_ids: Tensor, prompt_mask: Tensor, limit: int, depth: int = 0
    ) -> None:
        if not bool(prompt_mask[:, -1].all()):
            raise ValueError("a prompt is empty or padded on the right; pad_prompts pads on the left")
        self.structure = structure
        self._position = prompt_mask.sum(-1)  # of each slot's next token
        self._column = longest = int(self._position.max())  # of every slot's next token
        self._room = longest + limit
        different = prompt_ids[:, -longest:].masked_fill(~prompt_mask[:, -longest:], -1)
        different, which = torch.unique(different, dim=0, return_inverse=True)
        # Prompts of like length are passed together, so that their attention is hardly padded.
        order = (different >= 0).sum(-1).argsort(stable=True)
        self._prompts, self._which = different[order], order.argsort()[which]
        self.prefilled = (self._prompts >= 0).sum(-1)
        tables = structure.rotations(self._room)
        self._tables = {name: (c[:, None], s[:, None]) for name, (c, s) in tables.items()}
        self._cache: Cache | None = None
        self._depth = depth
        self.noted: Tensor | None = None
        """What the lowest layers gave: after ``prefill`` of the prompts, right-aligned, [B, T, H]; after ``step``
        [slots, H]."""
        self._bar()

    @property
    def slots(self) -> int:
        """Sequences that go on."""
        return len(self._position)

    def _bar(self) -> None:
        """Note the first column that any slot uses, and what the others add to the scores of those they do not."""
        begins = self._column - self._position
        self._first = int(begins.min())
        self._barred: Tensor | None = None
        if int(begins.max()) > self._first:
            columns = torch.arange(self._room, device=begins.device)
            unused = columns < begins[:, None, None]
            self._barred = torch.zeros_like(unused, dtype=torch.float32).masked_fill_(unused, -torch.inf)

    def prefill(self) -> Tensor:
        """Logits after each prompt. Shape [B, V]."""
        ends = self.prefilled.cumsum(0)
        found, noted, start, passed = [], list[Tensor](), 0, 0
        while start < len(self._prompts):
            stop = max(int((ends - passed <= PREFILL_TOKENS).sum()), start + 1)
            found.append(self._prefill(start, stop))
            noted += [] if self.noted is None else [self.noted]
            start, passed = stop, int(ends[stop - 1])
        if noted:
            width = self._prompts.shape[1]
            noted = [functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in noted]
            self.noted = torch.cat(noted)[self._which]
        return torch.cat(found)[self._which]

    def _prefill(self, start: int, stop: int) -> Tensor:
        """Pass the prompts from ``start`` to before ``stop``, without padding. Logits after each of them."""
        structure, windows = self.structure, {block.window for block in self.structure.blocks}
        ids = self._prompts[start:stop, -int(self.prefilled[stop - 1]) :]
        mask = ids >= 0
        place = mask.flatten().nonzero()[:, 0]
        padded, width = len(place) < mask.numel(), mask.shape[1]
        plain = structure.fused_kernel and not padded
        seen = {w: None if plain and (w is None or w >= width) else _visible(mask, w) for w in windows}
        slots = ((self._which >= start) & (self._which < stop)).nonzero()[:, 0]
        prompts = self._which[slots] - start

        def spread(x: Tensor) -> Tensor:
            """[N, heads, D] to [prompts, P, heads, D]."""
            if padded:
                x = x.new_zeros(mask.numel(), *x.shape[1:]).index_copy_(0, place, x)
            return x.view(*mask.shape, *x.shape[1:])

        def attend(layer: int, block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = spread(q), spread(k), spread(v)
            cache.fill(layer, slots, k[prompts], v[prompts], self._column)
            if structure.fused_kernel:
                mixed = _fused_attention(q, k, v, seen[block.window])
            else:
                mixed = _attention(q, k, v, seen[block.window], block.softcap)
            mixed = mixed.reshape(mask.numel(), -1)
            return mixed[place] if padded else mixed

        positions = (mask.long().cumsum(-1) - 1).flatten()[place]
        x = structure.embed(ids.flatten()[place], positions)
        cache = self._cache = self._cache or Cache(structure, self.slots, self._room, x)
        x = self._through(x, positions, attend)
        if self.noted is not None:
            self.noted = spread(self.noted[:, None])[:, :, 0]
        return structure.logits(x[mask.sum(-1).cumsum(0) - 1])

    def step(self, tokens: Tensor) -> Tensor:
        """Pass one more token of each slot. Shapes [slots] and [slots, V]."""
        return self.structure.logits(self._step(tokens, len(self.structure.blocks)))

    def step_noted(self, tokens: Tensor) -> Tensor:
        """Pass a last token of each slot through the layers alone that are noted. Shapes [slots] and [slots, H]."""
        return self._step(tokens, self._depth)

    def _step(self, tokens: Tensor, layers: int) -> Tensor:
        """The hidden states [slots, H] of one more token of each slot above so many layers.

        The query heads of a group meet their keys in one product a KV head, so no key is repeated.
        """
        structure, cache, barred = self.structure, self._cache, self._barred
        assert cache is not None
        column, pairs = self._column, self.slots * structure.kv_heads

        def attend(layer: int, block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.keys[layer, : len(q)], cache.values[layer, : len(q)]
            keys[..., column], values[:, :, column] = k, v
            first = self._first if block.window is None else max(self._first, column + 1 - block.window)
            scores = torch.bmm(q.reshape(pairs, -1, q.shape[-1]), keys[..., first : column + 1].flatten(0, 1))
            if block.softcap is not None:
                scores = torch.tanh(scores / block.softcap) * block.softcap
            if barred is not None:
                scores = scores.view(len(q), -1, scores.shape[-1]) + barred[..., first : column + 1].to(scores)
            weights = torch.softmax(scores, -1).view(pairs, -1, scores.shape[-1])
            return torch.bmm(weights, values[:, :, first : column + 1].flatten(0, 1)).view(len(q), -1)

        x = self._through(structure.embed(tokens, self._position), self._position, attend, layers)
        self._column, self._position = column + 1, self._position + 1
        return x

    def _through(self, x: Tensor, positions: Tensor, attend: Attend, layers: int | None = None) -> Tensor:
        """Pass tokens [N, H] at their positions [N] through the lowest blocks, all if no number is given."""
        structure = self.structure
        heads, kv_heads = structure.heads, structure.kv_heads
        rotations = {name: (c[positions], s[positions]) for name, (c, s) in self._tables.items()}
        for layer, block in enumerate(structure.blocks[:layers]):
            qkv = block.project(block.before_attention(x)).view(len(x), -1, structure.width)
            qk, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
            if block.head_norms is not None:
                of_queries, of_keys = block.head_norms
                qk = torch.cat([of_queries(qk[:, :heads]), of_keys(qk[:, heads:])], 1)
            if block.rotation is not None:
                qk = rotate(qk, rotations[block.rotation])
            y = block.out(attend(layer, block, qk[:, :heads] * block.scaling, qk[:, heads:], v))
            x = x + (y if block.after_attention is None else block.after_attention(y))
            y = block.mlp(block.before_mlp(x))
            x = x + (y if block.after_mlp is None else block.after_mlp(y))
            if layer + 1 == self._depth:
                self.noted = x
        return x

    def keep(self, going: Tensor) -> Tensor:
        """Drop the slots that are not going on. Shape [slots] bool.

        Only what stands behind is moved, into the slots that become free: the cost is that of the dropped ones.

        Returns:
            The old slot of each new one.
        """
        left = int(going.sum())
        order = torch.arange(left, device=going.device)
        free = (~going[:left]).nonzero()[:, 0]
        order[free] = left + going[left:].nonzero()[:, 0]
        if self._cache is not None and len(free):
            self._cache.move(order[free], free, slice(self._first, self._column))
        self._position = self._position[order]
        self._bar()
        return order


def _visible(mask: Tensor, window: int | None) -> Tensor:
    """Whether a prompt's token [.., P, 1] sees another [.., 1, P]; padding sees itself. Shape [prompts, 1, P, P]."""
    places = torch.arange(mask.shape[1], device=mask.device)
    distance = places[:, None] - places
    near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return ((near & mask[:, None]) | (distance == 0))[:, None]


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Attention of prompts [U, P, heads, D] to themselves by torch's fused kernel; causal if nothing is said."""
    mixed = functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=seen,
        is_causal=seen is None,
        scale=1.0,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return mixed.transpose(1, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, softcap: float | None) -> Tensor:
    """The same in single products, with bounded scores."""
    assert seen is not None
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, 2).transpose(1, 2) for x in (k, v))
    scores = q.transpose(1, 2) @ k.transpose(2, 3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return (torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ v).transpose(1, 2)


class Noted:
    """What the lowest layers gave at the counted tokens of all sequences, as it becomes known.

    Args:
        prompts: what they gave at the prompts, right-aligned, [B, T, H].
        columns: P + R.
        width: P.
    """

    def __init__(self, prompts: Tensor, columns: int, width: int) -> None:
        self.states = prompts.new_zeros(len(prompts), columns, prompts.shape[-1])
        self.states[:, width - prompts.shape[1] : width] = prompts
        self._width = width

    def add(self, rows: Tensor, t: int, states: Tensor) -> None:
        """Note what was given at response token `t` of some rows."""
        self.states[rows, self._width + t] = states


def decode(structure: Structure, asked: Asked) -> Drawn:
    """Sample a response to each prompt."""
    batch, limit = asked.uniform_BR.shape
    ids, counted = asked.record()
    decoding = Decoding(structure, asked.prompt_ids, asked.prompt_mask, limit, asked.depth)
    row = torch.arange(batch, device=ids.device)  # of each slot
    going = torch.ones_like(row, dtype=torch.bool)
    logits = decoding.prefill()
    trunk = None
    if decoding.noted is not None:
        width = asked.prompt_ids.shape[1]
        trunk = Noted(decoding.noted, width + limit, width)
    for t in range(limit):
        token = sample(logits, asked.uniform_BR[row, t], asked.temperature, asked.truncation)
        ids[row, t] = torch.where(going, token, asked.pad_id)
        counted[row, t] = going
        # Where the trunk is wanted, a sequence stays until its last token has been passed.
        wanted, going = going, going & (token != asked.eos_id)
        left = int(going.sum())
        if not left or t == limit - 1:
            if trunk is not None:
                order = decoding.keep(wanted)
                trunk.add(row[order], t, decoding.step_noted(token[order]))
            break
        stay = going if trunk is None else wanted
        if len(row) - int(stay.sum()) >= len(row) * DROPPED_SHARE:
            order = decoding.keep(stay)
            row, token, going, wanted = row[order], token[order], going[order], wanted[order]
        logits = decoding.step(token)
        if trunk is not None and decoding.noted is not None:
            trunk.add(row, t, decoding.noted.masked_fill(~wanted[:, None], 0.0))  # of a row that has ended nothing
    return Drawn(ids, counted, decoding.prefilled, None if trunk is None else trunk.states)
