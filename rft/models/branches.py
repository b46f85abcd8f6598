"""Texts that go on from one beginning, as a tree: what several of them begin with alike is passed once for all.

The tokens of all texts stand side by side in one row, each at its own position; only attention sees which text a token
belongs to. The beginning's keys and values are passed before, and are the same for every text: so its products with all
queries are one.
Dimensions: ``B`` texts, ``T`` tokens of the longest, ``N`` different tokens of all (a token is another where another
one precedes it), ``S`` tokens of the beginning, ``H`` query heads, ``K`` key and value heads, ``G`` query heads a KV
head, ``D`` head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rft.models.attention import branching


class Branches:
    """The texts of a batch, to be passed by a model with `rft.models.attention.attend_in_groups`.

    Args:
        rows: tokens of each text, at least 1; which begin alike makes no difference but to speed.
        beginning: S, at least 1.
        device: of the model.
    """

    def __init__(self, rows: Sequence[Sequence[int]], beginning: int, device: torch.device) -> None:
        self._beginning, longest = beginning, max(map(len, rows))
        known: dict[tuple[int, int], int] = {}
        ids, depths, firsts, ends = list[int](), list[int](), list[int](), list[int]()
        places = torch.zeros(len(rows), longest, dtype=torch.long)  # padding stands for any token: none looks there
        for b, row in enumerate(rows):
            path, parent = list[int](), -1
            for t, token in enumerate(row):
                parent = known.setdefault((parent, token), len(ids))
                if parent == len(ids):
                    ids.append(token)
                    depths.append(t)
                    firsts.append(b * longest + t)
                path.append(parent)
            places[b, : len(row)] = torch.tensor(path)
            ends.append(parent)
        self._place_BT = places.to(device)
        self._depth_N, self._first_N, self._ends_B = (torch.tensor(x, device=device) for x in (depths, firsts, ends))
        self.ids_1N = torch.tensor([ids], device=device)
        self.positions_1N = self._depth_N[None] + beginning
        self._sees_NT = torch.arange(longest, device=device) <= self._depth_N[:, None]
        self._groups: dict[int, tuple[Tensor, Tensor]] = {}

    def last_hidden(self, decoder: nn.Module, beginning: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What a decoder gives at the last token of each text. Shape [B, hidden width].

        Args:
            decoder: takes ``input_ids``, ``position_ids`` and ``past_key_values`` as those of transformers do.
            beginning: keys and values of the beginning in every layer, [1, K, S, D] each.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(beginning):
            cache.update(keys, values, layer)
        with branching(self):
            hidden: Tensor = decoder(
                input_ids=self.ids_1N,
                # Four dimensions are handed on as they are; what is seen is known here.
                attention_mask=self._sees_NT[None, None],
                position_ids=self.positions_1N,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        return hidden[0, self._ends_B]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        """Queries [1, H, N, D] to the beginning and to the tokens before them of their own text. Shape [1, N, H, D].

        Args:
            module: that attends.
            query: of the tokens.
            key: those of the beginning, then those of the tokens. Shape [1, K, S + N, D].
            value: likewise.
            given: what else the module says.
        """
        if not _in_products(query, given):
            return self._attend_fused(module, query, key, value, **given)
        scaling = given.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        return self._attend_in_products(query[0] * scaling, key[0], value[0])

    def _attend_fused(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        """By torch's fused kernel, every text with keys of its own."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        (batch, longest), start = self._place_BT.shape, self._beginning
        q = self._spread(query[0])
        k, v = (
            torch.cat([x[:, :, :start].expand(batch, -1, -1, -1), self._spread(x[0, :, start:])], 2)
            for x in (key, value)
        )
        # Padding stands behind: no token that counts sees it.
        mask = torch.ones(longest, start + longest, dtype=torch.bool, device=query.device).tril(start)[None, None]
        mixed, _ = sdpa_attention_forward(module, q, k, v, mask, **given)
        return mixed.reshape(batch * longest, *mixed.shape[2:])[self._first_N][None]

    def _spread(self, x: Tensor) -> Tensor:
        """[heads, N, D] to [B, heads, T, D]."""
        return x[:, self._place_BT].transpose(0, 1)

    def _attend_in_products(self, q_HND: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Scores of the beginning and of a text's own tokens are made apart and meet in one softmax."""
        start, kv_heads, count = self._beginning, len(k), q_HND.shape[1]
        group = len(q_HND) // kv_heads
        spread, packed = self._of_groups(group)
        whole = kv_heads, group * count  # all queries of a KV head

        def each(x: Tensor) -> Tensor:
            """What each text's queries have, [K, G N, …] to [K B, G T, …]."""
            return x.index_select(1, spread).view(kv_heads * len(self._place_BT), -1, x.shape[-1])

        def of_all(x: Tensor) -> Tensor:
            """Back again."""
            return x.view(kv_heads, -1, x.shape[-1]).index_select(1, packed)

        places = self._place_BT.flatten()
        own_k, own_v = (
            x[:, start:].index_select(1, places).view(-1, self._place_BT.shape[1], x.shape[-1]) for x in (k, v)
        )  # [K B, T, D]
        q = q_HND.reshape(*whole, -1)
        own = of_all(torch.bmm(each(q), own_k.transpose(1, 2))).view(kv_heads, group, count, -1)
        own = own.masked_fill_(~self._sees_NT, -torch.inf).view(*whole, -1)
        scores = torch.cat([torch.bmm(q, k[:, :start].transpose(1, 2)), own], -1)
        # Of 16-bit rows whose width is no multiple of the registers, the softmax takes twice as long as in float32.
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        mixed = torch.bmm(weights[..., :start], v[:, :start])
        mixed += of_all(torch.bmm(each(weights[..., start:]), own_v))
        return mixed.view(1, kv_heads * group, count, -1).transpose(1, 2).contiguous()

    def _of_groups(self, group: int) -> tuple[Tensor, Tensor]:
        """Which of [G, N] queries stand at [B, G, T], and which of these stand for [G, N]; both flat."""
        if group not in self._groups:
            longest, count = self._place_BT.shape[1], len(self._first_N)
            heads = torch.arange(group, device=self._place_BT.device)
            spread = heads[:, None] * count + self._place_BT[:, None]  # [B, G, T]
            text, place = self._first_N // longest, self._first_N % longest
            packed = (text * group + heads[:, None]) * longest + place  # [G, N]
            self._groups[group] = spread.flatten(), packed.flatten()
        return self._groups[group]


def _in_products(query: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether two products with a softmax between them are all there is to do, where they are the quicker way."""
    return query.device.type == "cpu" and not given.get("dropout") and given.get("softcap") is None
