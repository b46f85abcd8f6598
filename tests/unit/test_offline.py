"""Labels become comparisons, comparisons become pairs and batches: which answer goes where.

Dimensions: ``B`` answers, ``M`` comparisons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rft.budget import Usage
from rft.data.offline import (
    Comparison,
    OfflineStream,
    comparison_batches,
    load_answers,
    load_comparisons,
    mismatched,
    to_pairs,
    to_sequences,
    to_unpaired,
)
from rft.errors import UserError
from rft.types import PreferenceBatch

PAD = 0


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three prompts with two answers each: one decided either way, one a tie, one held out."""
    write(
        tmp_path / "candidates.parquet",
        [{"prompt_ids": [10 + row // 2], "response_ids": [20 + row] * (1 + row % 2)} for row in range(6)],
    )
    write(
        tmp_path / "pairs.parquet",
        [
            {"pair": 0, "prompt_id": "a", "first": 0, "second": 1, "heldout": False},
            {"pair": 1, "prompt_id": "b", "first": 3, "second": 2, "heldout": False},
            {"pair": 2, "prompt_id": "c", "first": 4, "second": 5, "heldout": True},
            {"pair": 3, "prompt_id": "a", "first": 1, "second": 0, "heldout": False},
        ],
    )
    write(
        tmp_path / "labels.parquet",
        [{"pair": pair, "preference": p} for pair, p in ((0, 0.2), (1, 0.5), (2, 1.0), (3, 0.9))],
    )
    return tmp_path


def test_the_better_answer_is_chosen_and_ties_are_left_out(folder: Path) -> None:
    assert load_comparisons(folder, folder, heldout=False) == [
        Comparison("a", chosen=1, rejected=0, preference=0.8),
        Comparison("a", chosen=1, rejected=0, preference=0.9),
    ]
    assert load_comparisons(folder, folder, heldout=True) == [Comparison("c", 4, 5, 1.0)]


def test_labels_without_a_decision_are_refused_for_training(folder: Path) -> None:
    write(folder / "labels.parquet", [{"pair": pair, "preference": 0.5} for pair in range(4)])
    with pytest.raises(UserError, match=r"candidates\.pairs_per_prompt"):
        load_comparisons(folder, folder, heldout=False)
    assert load_comparisons(folder, folder, heldout=True) == []


def test_pairs_point_at_the_answers_and_their_reference(folder: Path) -> None:
    answers = load_answers(folder, PAD)
    pairs = to_pairs([Comparison("a", 1, 0, 0.8), Comparison("c", 4, 5, 1.0)], answers, torch.arange(6.0))
    assert pairs.chosen.prompt_ids.tolist() == [[10], [12]]
    assert pairs.chosen.response_ids.tolist() == [[21, 21], [24, PAD]]
    assert pairs.rejected.response_mask.tolist() == [[True, False], [True, True]]
    assert pairs.preference.tolist() == pytest.approx([0.8, 1.0])
    assert pairs.ref_chosen_logprobs is not None
    assert pairs.ref_rejected_logprobs is not None
    assert pairs.ref_chosen_logprobs.tolist() == [1.0, 4.0]
    assert pairs.ref_rejected_logprobs.tolist() == [0.0, 5.0]


def test_a_batch_scores_each_answer_once_and_holds_whole_prompts() -> None:
    answers = to_sequences([[1]] * 12, [[row + 2] for row in range(12)], PAD)
    comparisons = [
        Comparison(f"p{prompt}", 4 * prompt + a, 4 * prompt + b, 0.75)
        for prompt in range(3)
        for a, b in ((0, 1), (0, 2), (3, 0))
    ]
    batches = comparison_batches(comparisons, answers, prompts_per_step=2, epochs=2, seed=0)
    assert [len(batch) for batch in batches] == [6, 3, 6, 3]
    assert [len(batch.answers) for batch in batches] == [8, 4, 8, 4]
    for one_pass in (batches[:2], batches[2:]):
        tokens = sorted(
            (int(batch.answers.response_ids[c, 0]) - 2, int(batch.answers.response_ids[r, 0]) - 2)
            for batch in one_pass
            for c, r in zip(batch.chosen.tolist(), batch.rejected.tolist(), strict=True)
        )
        assert tokens == sorted((c.chosen, c.rejected) for c in comparisons)


def test_the_order_of_prompts_comes_from_the_seed() -> None:
    answers = to_sequences([[1]] * 40, [[row + 2] for row in range(40)], PAD)
    comparisons = [Comparison(f"p{i}", 2 * i, 2 * i + 1, 1.0) for i in range(20)]

    def order(seed: int) -> list[int]:
        return [int(b.answers.response_ids[0, 0]) for b in comparison_batches(comparisons, answers, 1, 1, seed)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))


@pytest.mark.parametrize("prompts", [2, 3, 7])
def test_a_mismatched_response_never_belongs_to_its_prompt(prompts: int) -> None:
    rows = [(p, p) for p in range(prompts) for _ in range(3)]
    answers = to_sequences([[p + 1] for p, _ in rows], [[r + 1] for _, r in rows], PAD)
    other = mismatched(answers, 3)
    assert other.prompt_ids.tolist() == answers.prompt_ids.tolist()
    assert (other.response_ids != other.prompt_ids).all()
    assert sorted(other.response_ids.flatten().tolist()) == sorted(answers.response_ids.flatten().tolist())


def test_a_single_prompt_has_no_mismatched_responses() -> None:
    with pytest.raises(ValueError, match="two prompts or more"):
        mismatched(to_sequences([[1]] * 3, [[2]] * 3, PAD), 3)


def test_a_comparison_gives_one_good_and_one_bad_response() -> None:
    answers = to_sequences([[1], [1], [2], [2]], [[10], [11], [12], [13]], PAD)
    batch = to_unpaired(
        [Comparison("a", 1, 0, 0.9), Comparison("b", 2, 3, 0.8)],
        answers,
        mismatched(answers, 2),
        torch.arange(4.0),
        torch.arange(4.0) + 10,
    )
    assert batch.sequences.response_ids.flatten().tolist() == [11, 12, 10, 13]
    assert batch.desirable.tolist() == [True, True, False, False]
    assert batch.mismatched.response_ids.flatten().tolist() == [13, 10, 12, 11]
    assert batch.ref_logprobs is not None
    assert batch.ref_mismatched_logprobs is not None
    assert batch.ref_logprobs.tolist() == [1, 2, 0, 3]
    assert batch.ref_mismatched_logprobs.tolist() == [11, 12, 10, 13]


class Learner:
    """Notes the rows of each step."""

    class backbone:
        device = torch.device("cpu")
        usage = Usage()

    current_epoch = 0

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def see_step(self, batch: PreferenceBatch) -> PreferenceBatch:
        self.seen.append(batch.chosen.response_ids.flatten().tolist())
        return batch

    def checked_count(self, batch: PreferenceBatch) -> int:
        return batch.count


def test_ranks_and_microbatches_share_a_steps_rows_and_ties_weigh_nothing() -> None:
    answers = to_sequences([[1]] * 16, [[row + 10] for row in range(16)], PAD)
    pairs = to_pairs([Comparison("a", i, i + 8, 0.9 if i else 0.5) for i in range(8)], answers)
    seen, weights = [], []
    for rank in range(2):
        learner = Learner()
        stream = OfflineStream(learner, pairs, rows_per_step=8, epochs=1, seed=0, accumulate=2, rank=rank, world=2)  # type: ignore[arg-type]
        parts = list(stream)
        assert len(parts) == len(stream) == 2
        assert [len(part) for part in parts] == [2, 2]
        seen += learner.seen
        weights += [(part.weight, part.count) for part in parts]
    assert sorted(row for step in seen for row in step) == list(range(10, 18))
    # Seven of eight pairs are decided, in four microbatches: a mean over them is a mean over all seven.
    assert [w for w, _ in weights] == pytest.approx([count * 4 / 7 for _, count in weights])
    assert sum(count for _, count in weights) == 7
