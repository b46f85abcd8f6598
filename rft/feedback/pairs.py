"""Which responses are compared, chosen before any label exists and without a look at the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rft.errors import UserError


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison. `first` and `second` are rows of the candidates, in the order of presentation."""

    pair: int
    prompt_id: str
    first: int
    second: int
    heldout: bool  # equal for all pairs of a prompt


def choose_pairs(
    prompt_ids: Sequence[str],
    samples_per_prompt: int,
    pairs_per_prompt: int,
    heldout_fraction: float,
    seed: int,
) -> list[Pair]:
    """Random distinct pairs within each prompt, in random order of presentation.

    Sample s of prompt i is row ``i * samples_per_prompt + s`` of the candidates. The pairs of
    round(heldout_fraction · prompts) random prompts are held out, of one prompt at least if the fraction is
    above 0.

    Args:
        prompt_ids: P distinct ids, at least 1, in the order of the candidates.
        samples_per_prompt: K, at least 2.
        pairs_per_prompt: 1 to K (K − 1) / 2.
        heldout_fraction: in [0, 1), so that one prompt at least is not held out.
        seed: of all the choices, at least 0.

    Raises:
        UserError: if a number is out of its range.
    """
    if samples_per_prompt < 2:
        raise UserError(f"candidates.samples_per_prompt is {samples_per_prompt}: it takes 2 to make a pair")
    possible = list(combinations(range(samples_per_prompt), 2))
    if not 1 <= pairs_per_prompt <= len(possible):
        raise UserError(
            f"candidates.pairs_per_prompt is {pairs_per_prompt}, but {samples_per_prompt} samples a prompt make "
            f"{len(possible)} pairs; ask for 1 to {len(possible)} or raise candidates.samples_per_prompt"
        )
    if not 0 <= heldout_fraction < 1:
        raise UserError(f"candidates.heldout_fraction is {heldout_fraction}: it must be in [0, 1)")
    if len(set(prompt_ids)) != len(prompt_ids):
        raise ValueError("prompt_ids has duplicates: one id a prompt is wanted")
    if seed < 0:
        raise UserError(f"candidates.seed is {seed}: it must be at least 0")
    rng = np.random.default_rng(seed)
    wanted = round(heldout_fraction * len(prompt_ids))
    count = max(wanted, 1) if heldout_fraction > 0 else 0
    if count >= len(prompt_ids):
        raise UserError(
            f"candidates.heldout_fraction is {heldout_fraction}: it holds out {count} of {len(prompt_ids)} prompts and "
            "leaves none to train on; give a smaller one or more task.train_prompts"
        )
    heldout = {int(i) for i in rng.permutation(len(prompt_ids))[:count]}
    pairs: list[Pair] = []
    for i, prompt_id in enumerate(prompt_ids):
        for choice in rng.permutation(len(possible))[:pairs_per_prompt]:
            first, second = (i * samples_per_prompt + s for s in rng.permutation(possible[choice]).tolist())
            pairs.append(Pair(len(pairs), prompt_id, first, second, i in heldout))
    return pairs


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """``pairs.parquet``: pair, prompt_id, first, second, heldout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "pair": pa.array([p.pair for p in pairs], pa.int64()),
            "prompt_id": pa.array([p.prompt_id for p in pairs], pa.string()),
            "first": pa.array([p.first for p in pairs], pa.int64()),
            "second": pa.array([p.second for p in pairs], pa.int64()),
            "heldout": pa.array([p.heldout for p in pairs], pa.bool_()),
        }
    )
    pq.write_table(table, path)


def read_pairs(path: Path) -> list[Pair]:
    """The rows of a ``pairs.parquet``."""
    import pyarrow.parquet as pq

    return [Pair(**row) for row in pq.read_table(path).to_pylist()]
