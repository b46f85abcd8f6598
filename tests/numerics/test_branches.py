"""Texts passed as a tree after one beginning, against each of them passed whole and by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rft.models import branches as module
from rft.models.attention import attend_in_groups
from rft.models.branches import Branches
from tests.numerics.test_decoding import make_model
from tests.numerics.test_packing import config_of

BEGINNING = [5, 9, 4, 7]
# One is the beginning of another, two are the same, one shares nothing; in no order.
ROWS = [[3, 4, 5, 6], [8], [3, 4, 9, 6, 7, 3, 2], [3, 4, 5], [3, 4, 5, 6], [7, 4, 5]]


def made(name: str) -> PreTrainedModel:
    model = make_model(config_of(name))
    attend_in_groups(model)
    return model


@torch.inference_mode()
def by_branches(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    cache = DynamicCache()
    model.get_decoder()(input_ids=torch.tensor([BEGINNING]), past_key_values=cache, use_cache=True)
    beginning: Any = [(layer.keys, layer.values) for layer in cache.layers]
    return Branches(rows, len(BEGINNING), torch.device("cpu")).last_hidden(model.get_decoder(), beginning)


@torch.inference_mode()
def one_by_one(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    decoder = model.get_decoder()
    return torch.cat([decoder(input_ids=torch.tensor([BEGINNING + r])).last_hidden_state[:, -1] for r in rows])


@pytest.mark.parametrize("products", [True, False], ids=["products", "fused"])
@pytest.mark.parametrize("name", ["llama", "llama-biased", "qwen3", "gpt2", "gemma", "mistral-wide", "gemma3-wide"])
def test_every_text_ends_as_if_it_were_passed_whole(name: str, products: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_products", lambda *_: products)
    model = made(name)
    wanted = one_by_one(model, ROWS)
    torch.testing.assert_close(by_branches(model, ROWS), wanted, rtol=1e-4, atol=1e-5)
    assert torch.pdist(wanted[[0, 1, 2, 3, 5]]).min() > 1e-2


def test_what_texts_begin_with_alike_is_passed_once() -> None:
    model, seen = made("llama"), list[Any]()
    model.get_decoder().layers[0].mlp.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    by_branches(model, ROWS)
    assert sum(map(len, ROWS)) == 22
    assert seen == [(1, len(BEGINNING), 32), (1, 13, 32)]  # 3 4, then 5 6 or 9 6 7 3 2; 8; 7 4 5


def test_a_text_does_not_see_those_beside_it() -> None:
    model = made("llama")
    before, after = (by_branches(model, [[3, 4, 5, 6], [3, 4, other, 8]]) for other in (9, 7))
    assert (before[1] - after[1]).abs().max() > 1e-3
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)


def test_the_tree_of_three_texts() -> None:
    """1 2 3 and 1 2 4 part after two tokens; 2 3 is another branch, though its tokens are known."""
    tree = Branches([[1, 2, 3], [2, 3], [1, 2, 4]], 10, torch.device("cpu"))
    assert tree.ids_1N.tolist() == [[1, 2, 3, 2, 3, 4]]
    assert tree.positions_1N.tolist() == [[10, 11, 12, 10, 11, 12]]
