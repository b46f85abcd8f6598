"""What reaches credit assignment in a real training run says nothing of the hidden gold reward of its texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rft.config import build, compose
from rft.config.build import target_class
from rft.data.offline import read_table
from rft.store import Store
from rft.types import Rollouts, Sequences
from tests.integration.conftest import Sweep
from tests.integration.harness import ON_POLICY, TINY
from tests.integration.trained import train

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group(__name__), pytest.mark.timeout(900)]

FEWEST = 6  # rows of which a likeness is no accident
ALIKE = 0.999  # correlation: gold in other units, as rewards are standardised, counts as gold


def numbers(data: Any, name: str = "") -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Every column of numbers in a frozen dataclass, with its name; of [B, R] each token's and their sum."""
    if dataclasses.is_dataclass(data):
        for field in dataclasses.fields(data):
            yield from numbers(getattr(data, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(data, torch.Tensor) and data.ndim in (1, 2):
        x = data.double().numpy()
        yield name, x if x.ndim == 1 else x.sum(-1)
        if x.ndim == 2:
            yield from ((f"{name}[:, {column}]", x[:, column]) for column in range(x.shape[1]))


def like(data: Any, gold_B: NDArray[np.float64]) -> list[str]:
    """Which numbers are gold, or gold in other units, in the rows that they are not zero in."""
    found = []
    for name, x_B in numbers(data):
        rows = x_B != 0
        if rows.sum() >= FEWEST and np.ptp(x_B[rows]) > 0:
            for scale in (gold_B[rows], 1 / (1 + np.exp(-gold_B[rows]))):
                if abs(np.corrcoef(x_B[rows], scale)[0, 1]) > ALIKE and name not in found:
                    found.append(name)
    return found


@pytest.mark.parametrize("name", ["ppo", "rloo", "online_dpo"])
def test_no_number_that_reaches_credit_assignment_is_gold(name: str, sweep: Sweep, tmp_path: Path) -> None:
    cfg = compose([f"algorithm={name}", *ON_POLICY, *TINY])
    trial = sweep.trials["ppo"]
    inputs: Any = {stage: SimpleNamespace(path=trial.entry(stage)) for stage in ("questions", "sft", "reward_model")}
    text = {tuple(q["token_ids"]): q["text"] for q in read_table(trial.entry("questions") / "questions.parquet")}
    task: Any = build(cfg.task, store=Store(sweep.store))
    gold = task.load_gold(trial.entry("gold"))
    seen: list[tuple[Rollouts, Any, NDArray[np.float64]]] = []
    base: Any = target_class(cfg.algorithm)

    class Watched(base):  # type: ignore[misc]
        def gold(self, seq: Sequences) -> NDArray[np.float64]:
            """Gold log-odds of each prompt with its response, as the final test takes them. Shape [B]."""
            decode, rows = self.backbone.tokenizer.decode, range(len(seq))
            asked = [text[tuple(seq.prompt_ids[i][seq.prompt_mask[i]].tolist())] for i in rows]
            said = [decode(seq.response_ids[i][seq.response_mask[i]], skip_special_tokens=True) for i in rows]
            return np.asarray(gold.logit([a + b for a, b in zip(asked, said, strict=True)]))

        def assign_credit(self, rollouts: Rollouts) -> Any:
            batch = super().assign_credit(rollouts)
            seen.append((rollouts, batch, self.gold(rollouts.sequences)))
            return batch

    train(Watched, cfg, inputs, tmp_path)
    assert len(seen) == int(cfg.algorithm.iterations)
    for rollouts, batch, gold_B in seen:
        assert np.ptp(gold_B) > 0
        compared = dict(numbers(rollouts))
        assert {"rewards", "logprobs", "logprobs[:, 0]"} <= set(compared)
        assert like(rollouts, gold_B) == []
        if len(batch) == len(rollouts):  # else its rows are others
            assert like(batch, gold_B) == []
        # The same comparison finds gold wherever it is put, in whatever units.
        planted = torch.from_numpy(gold_B)
        mask = rollouts.sequences.response_mask
        for field, x in {
            "rewards": (planted - planted.mean()) / planted.std(),
            "greedy_rewards": torch.sigmoid(planted),
            "values": planted[:, None] * mask,
        }.items():
            assert any(k.startswith(field) for k in like(dataclasses.replace(rollouts, **{field: x}), gold_B))
