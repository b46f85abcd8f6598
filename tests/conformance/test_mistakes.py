"""Mistakes in tokens, masks, numbers of rows and counts are told: what came, what was wanted, and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rft.algorithms import dpo, kto, online_dpo, raft, rloo
from rft.algorithms.base import Algorithm
from rft.algorithms.checked import ContractError
from rft.testing.world import World
from rft.types import Rollouts, Sequences

HERE = re.escape(__file__)
CONFIGS: dict[type[Algorithm], Any] = {
    rloo.RLOO: rloo.Config,
    raft.RAFT: raft.Config,
    online_dpo.OnlineDPO: online_dpo.Config,
    dpo.DPO: dpo.Config,
    kto.KTO: kto.Config,
}


def _hands_over(base: type[Algorithm], change: Callable[[Any], Any]) -> World:
    """The small world with an algorithm whose batches are changed before they are learned from."""

    class Changed(base):  # type: ignore[valid-type, misc]
        def prepare(self, rollouts: Rollouts) -> Any:
            return change(super().prepare(rollouts))

        def prepare_step(self, batch: Any) -> Any:
            return change(super().prepare_step(batch))

    return World(Changed, CONFIGS[base](name="changed"))


SEQUENCES: dict[str, tuple[Callable[[Sequences], Any], str]] = {
    "float response mask": (
        lambda s: replace(s, response_mask=s.response_mask.float()),
        r"response_mask is torch\.float32 \[\d+, 5\]; wanted bool \[B, R\] = \[\d+, 5\]",
    ),
    "narrow response mask": (
        lambda s: replace(s, response_mask=s.response_mask[:, 1:]),
        r"response_mask is torch\.bool \[\d+, 4\]; wanted bool \[B, R\] = \[\d+, 5\]",
    ),
    "beyond EOS": (
        lambda s: replace(s, response_mask=torch.ones_like(s.response_mask)),
        r"response_mask counts token \d of row \d+, after the end of the response; wanted",
    ),
    "float response ids": (
        lambda s: replace(s, response_ids=s.response_ids.float()),
        r"response_ids is torch\.float32 \[\d+, 5\]; wanted int64 \[B, R\]",
    ),
    "short response ids": (
        lambda s: replace(s, response_ids=s.response_ids.int()),
        r"response_ids is torch\.int32 \[\d+, 5\]; wanted int64 \[B, R\]",
    ),
    "flat prompt ids": (
        lambda s: replace(s, prompt_ids=s.prompt_ids[:, 0]),
        r"prompt_ids is torch\.int64 \[\d+\]; wanted int64 \[B, P\]",
    ),
    "wide prompt mask": (
        lambda s: replace(s, prompt_mask=torch.nn.functional.pad(s.prompt_mask, (1, 0))),
        r"prompt_mask is torch\.bool \[\d+, 5\]; wanted bool \[B, P\] = \[\d+, 4\]",
    ),
    "prompts padded on the right": (
        lambda s: replace(s, prompt_mask=s.prompt_mask.flip(1)),
        r"prompt_mask of row \d+ counts token \d and not the next; wanted prompts padded on the left",
    ),
    "responses of other rows": (
        lambda s: replace(s, response_ids=s.response_ids[1:], response_mask=s.response_mask[1:]),
        r" has \d+ prompts and \d+ responses; wanted as many",
    ),
    "narrow trunk": (
        lambda s: replace(s, trunk=torch.zeros(len(s), 8, 16)),
        r"trunk is torch\.float32 \[\d+, 8, 16\]; wanted \[B, P \+ R, …\] = \[\d+, 9, …\]",
    ),
    "ids alone": (lambda s: s.response_ids, r" is a Tensor; wanted Sequences"),
}
SIDES = [
    (rloo.RLOO, "sequences", "prepare"),
    (online_dpo.OnlineDPO, "chosen", "prepare"),
    (online_dpo.OnlineDPO, "rejected", "prepare"),
    (dpo.DPO, "chosen", "prepare_step"),
    (dpo.DPO, "rejected", "prepare_step"),
    (kto.KTO, "sequences", "prepare_step"),
    (kto.KTO, "mismatched", "prepare_step"),
]


@pytest.mark.parametrize(("base", "side", "method"), SIDES, ids=lambda x: getattr(x, "__name__", x))
@pytest.mark.parametrize("mistake", SEQUENCES)
def test_a_mistake_in_sequences_is_told(base: type[Algorithm], side: str, method: str, mistake: str) -> None:
    change, words = SEQUENCES[mistake]
    world = _hands_over(base, lambda batch: replace(batch, **{side: change(getattr(batch, side))}))
    with pytest.raises(ContractError, match=rf"^{HERE}:\d+ \S+\.{method}: {side}\.?{words}"):
        world.batch()


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (dpo.DPO, {"preference": lambda x: x.long()}, r"preference is torch\.int64 \[16\]; wanted a float tensor"),
        (dpo.DPO, {"preference": lambda x: 1 - x}, r"preference leaves \[0\.5, 1\]"),
        (kto.KTO, {"desirable": lambda x: x.float()}, r"desirable is torch\.float32 \[32\]; wanted a bool tensor"),
        (kto.KTO, {"kl": lambda x: x.expand(2)}, r"kl is torch\.float64 \[2\]; wanted a float tensor"),
        (kto.KTO, {"mismatched": lambda s: s[slice(2)]}, r"32 sequences and 2 mismatched; wanted as many of both"),
    ],
)
def test_a_mistake_in_what_a_step_is_told_of_its_rows(base: Any, change: dict[str, Any], words: str) -> None:
    world = _hands_over(base, lambda b: replace(b, **{k: f(getattr(b, k)) for k, f in change.items()}))
    with pytest.raises(ContractError, match=rf"^{HERE}:\d+ \S+\.prepare_step: {words}"):
        world.batch()


@pytest.mark.parametrize(("base", "rows"), [(rloo.RLOO, 32), (raft.RAFT, 8), (online_dpo.OnlineDPO, 8)])
@pytest.mark.parametrize("part", [2, 4])
def test_part_of_the_rows_is_refused_though_it_divides(base: type[Algorithm], rows: int, part: int) -> None:
    world = _hands_over(base, lambda batch: batch[slice(len(batch) // part)])
    words = rf"gave {rows // part} rows of \d+ rollouts; wanted {rows}, as batch_rows says \({rows} of \d+\)"
    with pytest.raises(ContractError, match=rf"^{HERE}:\d+ \S+\.prepare: {words}"):
        next(iter(world.stream()))


@pytest.mark.parametrize("base", [rloo.RLOO, raft.RAFT, online_dpo.OnlineDPO])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_ranks_share_and_a_shortened_iteration_give_rows_in_proportion(base: type[Algorithm], ranks: int) -> None:
    world = World(base, CONFIGS[base](name="whole"))
    rollouts = world.stream(world=ranks).collect(0)
    k = world.config.samples_per_prompt
    for share in (1, 2):
        given = rollouts[slice(len(rollouts) // share)]
        batch = world.algorithm.assign_credit(given)
        assert len(batch) in (len(given), len(given) // k)
        half = _hands_over(base, lambda batch: batch[slice(len(batch) // 2)])
        with pytest.raises(ContractError, match=rf"wanted {len(batch)}, as batch_rows says"):
            half.algorithm.assign_credit(given)


@pytest.mark.parametrize(
    ("count", "came"),
    [
        (lambda b: b.sequences.response_mask.sum(), r"torch\.int64 \[\]"),
        (lambda b: float(b.count), r"float \d+\.0"),
        (lambda b: -b.count, r"int -\d+"),
        (lambda _: None, "NoneType None"),
        (lambda b: b.count > 0, "bool True"),
    ],
)
@pytest.mark.parametrize("base", [rloo.RLOO, kto.KTO])
def test_a_count_that_is_no_whole_number_is_told(base: Any, count: Callable[[Any], Any], came: str) -> None:
    class Counts(base):  # type: ignore[misc]
        def loss_count(self, batch: Any) -> Any:
            return count(batch)

    world = World(Counts, CONFIGS[base](name="counts"))
    with pytest.raises(ContractError, match=rf"^{HERE}:\d+ \S+\.loss_count: gave {came}; wanted a whole number"):
        list(world.microbatches(1))
