"""Data that exists before training: demonstrations and labelled pairs.

Order is a function of the seed and the step alone, so that a resumed run sees what an uninterrupted one would.
Dimensions: ``B`` rows, ``P`` prompt tokens, ``R`` response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from rft.budget import Meter, Prices, Usage
from rft.data.draws import seed_process
from rft.data.microbatches import count_microbatches
from rft.errors import UserError
from rft.models.backbone import Backbone, Role
from rft.progress import bar
from rft.rollout import pad_prompts
from rft.types import ComparisonBatch, ExampleBatch, PreferenceBatch, Sequences, UnpairedBatch, to_device

Batch: TypeAlias = PreferenceBatch | UnpairedBatch


class Learner(Protocol):
    """What the stream asks of an algorithm."""

    backbone: Backbone

    @property
    def current_epoch(self) -> int:
        """Finished Lightning epochs."""
        ...

    def see_step(self, batch: Any) -> Any:
        """What a step needs to know of all its rows before any of them is learned from."""
        ...

    def checked_count(self, batch: Any) -> int:
        """How many things the loss is a mean over."""
        ...


STEPS_PER_EPOCH = 16  # optimiser steps in a Lightning epoch: how often a preference algorithm is checkpointed


def to_sequences(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int) -> Sequences:
    """Token lists as padded tensors: prompts on the left, responses on the right."""
    prompt_ids, prompt_mask = pad_prompts(prompts, pad_id, torch.device("cpu"))
    width = max(len(r) for r in responses)
    ids = torch.tensor([list(r) + [pad_id] * (width - len(r)) for r in responses])
    mask = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in responses])
    return Sequences(prompt_ids, prompt_mask, ids, mask)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def example_batches(
    rows: Sequence[dict[str, Any]], batch_size: int, epochs: int, seed: int, pad_id: int
) -> list[ExampleBatch]:
    """Demonstrations shuffled anew for each pass, in batches; the last incomplete batch of a pass is kept."""
    batches = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        for start in range(0, len(order), batch_size):
            some = [rows[i] for i in order[start : start + batch_size]]
            seq = to_sequences([r["prompt_ids"] for r in some], [r["response_ids"] for r in some], pad_id)
            batches.append(ExampleBatch(seq))
    return batches


def load_answers(folder: Path, pad_id: int) -> Sequences:
    """All candidates, row by row, each with its prompt."""
    rows = read_table(folder / "candidates.parquet")
    return to_sequences([r["prompt_ids"] for r in rows], [r["response_ids"] for r in rows], pad_id)


def samples_per_prompt(folder: Path) -> int:
    """How many candidates each prompt has."""
    return max(int(row["sample"]) for row in read_table(folder / "candidates.parquet")) + 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """A decided label; rows of the candidates."""

    prompt_id: str
    chosen: int
    rejected: int
    preference: float  # P(chosen is better), in (0.5, 1]


def load_comparisons(folder_candidates: Path, folder_labels: Path, *, heldout: bool) -> list[Comparison]:
    """All decided labels of one side of the hold-out, the better response as chosen.

    Exact ties are left out, and pairs whose verdict is excluded.

    Args:
        folder_candidates: holds ``pairs.parquet``.
        folder_labels: holds ``labels.parquet``.
        heldout: which side.

    Raises:
        UserError: if no training pair has a decided label; the held-out side may be empty.
    """
    pairs = {p["pair"]: p for p in read_table(folder_candidates / "pairs.parquet") if p["heldout"] is heldout}
    found, unread = [], 0
    for label in read_table(folder_labels / "labels.parquet"):
        pair, p = pairs.get(label["pair"]), label["preference"]
        if pair is None or p is None or p == 0.5:
            unread += pair is not None and p is None
            continue
        rows = (pair["first"], pair["second"]) if p > 0.5 else (pair["second"], pair["first"])
        found.append(Comparison(pair["prompt_id"], *rows, max(p, 1 - p)))
    if not found and not heldout:
        mend = "raise task.train_prompts or candidates.pairs_per_prompt"
        if unread:
            mend = f"choose another judge, or another judge.form or judge.answers; or {mend}"
        raise UserError(
            f"feedback: no training pair has a decided label: of {len(pairs)} {unread} could not be read and "
            f"{len(pairs) - unread} are ties; {mend}"
        )
    return found


def to_pairs(
    comparisons: Sequence[Comparison], answers: Sequences, ref_logprobs: torch.Tensor | None = None
) -> PreferenceBatch:
    """Comparisons as pairs of sequences.

    Args:
        comparisons: M of them.
        answers: the candidates that they point into, of ``load_answers``.
        ref_logprobs: summed log-probabilities of the answers under the reference, [answers].
    """
    rows = torch.tensor([(c.chosen, c.rejected) for c in comparisons], dtype=torch.int64).reshape(-1, 2)
    chosen, rejected = rows.unbind(1)
    return PreferenceBatch(
        answers[chosen],
        answers[rejected],
        torch.tensor([c.preference for c in comparisons], dtype=torch.float32),
        None if ref_logprobs is None else ref_logprobs[chosen],
        None if ref_logprobs is None else ref_logprobs[rejected],
    )


def mismatched(answers: Sequences, samples_per_prompt: int) -> Sequences:
    """Each answer's prompt with the answer of another prompt, half of the questions further on.

    Args:
        answers: all candidates, those of a prompt next to one another.
        samples_per_prompt: how many they are.

    Raises:
        ValueError: with a single prompt there is no other.
    """
    prompts = len(answers) // samples_per_prompt
    if prompts < 2:
        raise ValueError(f"{len(answers)} answers of {prompts} prompt: mismatched pairs take two prompts or more")
    rows = (torch.arange(len(answers)) + prompts // 2 * samples_per_prompt) % len(answers)
    other = answers[rows]
    return Sequences(answers.prompt_ids, answers.prompt_mask, other.response_ids, other.response_mask)


def to_unpaired(
    comparisons: Sequence[Comparison],
    answers: Sequences,
    others: Sequences,
    ref_logprobs: torch.Tensor | None = None,
    ref_others: torch.Tensor | None = None,
) -> UnpairedBatch:
    """Comparisons as single responses: the better one of each is desirable, the worse one is not.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306), section 4.2: how preferences become unpaired feedback.

    Args:
        comparisons: M of them; 2M responses come out.
        answers: the candidates that they point into.
        others: of ``mismatched``.
        ref_logprobs: summed log-probabilities of the answers under the reference, [answers].
        ref_others: the same of the others.
    """
    rows = torch.tensor([c.chosen for c in comparisons] + [c.rejected for c in comparisons], dtype=torch.int64)
    return UnpairedBatch(
        answers[rows],
        torch.arange(len(rows)) < len(comparisons),
        others[rows],
        None if ref_logprobs is None else ref_logprobs[rows],
        None if ref_others is None else ref_others[rows],
    )


def comparison_batches(
    comparisons: Sequence[Comparison], answers: Sequences, prompts_per_step: int, epochs: int, seed: int
) -> list[ComparisonBatch]:
    """Batches of whole prompts with all their comparisons, shuffled anew for each pass.

    An answer that stands in several comparisons is scored once (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).
    The last incomplete batch of a pass is kept.
    """
    by_prompt: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_prompt.setdefault(comparison.prompt_id, []).append(comparison)
    prompts = list(by_prompt)
    batches = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(prompts))
        for start in range(0, len(order), prompts_per_step):
            some = [c for i in order[start : start + prompts_per_step] for c in by_prompt[prompts[i]]]
            rows = sorted({row for c in some for row in (c.chosen, c.rejected)})
            place = {row: i for i, row in enumerate(rows)}
            batches.append(
                ComparisonBatch(
                    answers[torch.tensor(rows)],
                    torch.tensor([place[c.chosen] for c in some]),
                    torch.tensor([place[c.rejected] for c in some]),
                    torch.tensor([c.preference for c in some], dtype=torch.float32),
                )
            )
    return batches


@torch.no_grad()
def reference_logprobs(answers: Sequences, backbone: Backbone, batch_size: int = 64) -> torch.Tensor:
    """Each answer's log-probability under the reference, summed over counted tokens. Shape [answers]."""
    sums = []
    with bar("reference log-probs", len(answers)) as progress:
        for start in range(0, len(answers), batch_size):
            part = to_device(answers[slice(start, start + batch_size)], backbone.device)
            sums.append(backbone.logprobs(Role.reference, part).sum(-1).cpu())
            progress.advance(len(part))
    return torch.cat(sums)


class OfflineStream(IterableDataset[Batch]):
    """Microbatches of labelled data, ``STEPS_PER_EPOCH`` optimiser steps in a Lightning epoch, sized.

    Args:
        algorithm: tells which Lightning epoch it is, and sees the rows of each step first.
        data: all training rows.
        rows_per_step: of all ranks.
        accumulate: least microbatches in a step.
        microbatch_tokens: most tokens of one, padding counted; None: any number.
        rank, world: this process's share of each step.
        meter: what the run may use; it ends with the last step that fits.
        label: what a pair's label cost, added when it is first learned from.

    Raises:
        UserError: if there are fewer rows than a step takes.
    """

    def __init__(
        self,
        algorithm: Learner,
        data: Batch,
        *,
        rows_per_step: int,
        epochs: int,
        seed: int,
        accumulate: int = 1,
        microbatch_tokens: int | None = None,
        rank: int = 0,
        world: int = 1,
        meter: Meter | None = None,
        label: Usage | None = None,
    ) -> None:
        if len(data) < rows_per_step:
            share = 2 if isinstance(data, UnpairedBatch) else 1  # two responses a pair
            raise UserError(
                f"algorithm.pairs_per_step={rows_per_step // share}: training pairs that have a label and are no tie: "
                f"{len(data) // share}; ask for at most as many, or label more (task.train_prompts, "
                "candidates.pairs_per_prompt)"
            )
        accumulate = count_microbatches(
            rows_per_step // world, row_tokens=data.row_tokens, least=accumulate, tokens=microbatch_tokens
        )
        if rows_per_step % (world * accumulate):
            raise ValueError(f"{rows_per_step} rows a step must be a multiple of {world} ranks x {accumulate}")
        self.meter = meter or Meter(algorithm.backbone.usage, Prices(0.0, 0.0, 0.0))
        self.label, self.taken = label or Usage(), 0
        self.rows_of_pair = 2 if isinstance(data, UnpairedBatch) else 1
        self.algorithm, self.data, self.seed = algorithm, data, seed
        self.rows_per_step, self.accumulate, self.rank, self.world = rows_per_step, accumulate, rank, world
        self.steps_per_pass = len(data) // rows_per_step
        self.steps = self.steps_per_pass * epochs

    @property
    def lightning_epochs(self) -> int:
        """Lightning epochs until all passes are done."""
        return math.ceil(self.steps / STEPS_PER_EPOCH)

    @property
    def least(self) -> int:
        """Minibatches that an epoch begins with, whatever is left."""
        return 1

    def _range(self) -> range:
        start = self.algorithm.current_epoch * STEPS_PER_EPOCH
        return range(start, min(start + STEPS_PER_EPOCH, self.steps))

    def __len__(self) -> int:
        return len(self._range()) * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        self.taken, usage = 0, self.algorithm.backbone.usage
        seed_process(self.seed, self.algorithm.current_epoch, self.rank)
        for step in self._range():
            if self.taken and not self.meter.go_on(self.meter.next_part(self.taken)):
                return
            self.taken += 1
            pairs = self.rows_per_step / self.rows_of_pair / self.world
            usage.prompts += pairs
            if step < self.steps_per_pass:
                usage.count(self.label.scaled(pairs))
            order = np.random.default_rng([self.seed, step // self.steps_per_pass]).permutation(len(self.data))
            start = (step % self.steps_per_pass) * self.rows_per_step
            rows = torch.from_numpy(order[start : start + self.rows_per_step])
            yield from self.microbatches(self.data[rows])

    def microbatches(self, step: Batch) -> Iterator[Batch]:
        """This rank's microbatches of a step's rows, which the algorithm has seen together first."""
        parts = self.world * self.accumulate
        micro = len(step) // parts
        # Interleaved, as ranks take their microbatches in turn.
        rows = torch.arange(len(step)).view(self.accumulate, self.world, micro)[:, self.rank].reshape(-1)
        mine = self.algorithm.see_step(to_device(step[rows], self.algorithm.backbone.device))
        total = max(self.algorithm.checked_count(step), 1)
        for start in range(0, len(mine), micro):
            part = mine[slice(start, start + micro)]
            yield replace(part, weight=self.algorithm.checked_count(part) * parts / total)


class OfflineData(lightning.LightningDataModule):
    """Labelled data for a Lightning trainer."""

    def __init__(self, stream: OfflineStream) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader[Batch]:
        """One Lightning epoch of microbatches, in this process (batches are made already)."""
        return DataLoader(self.stream, batch_size=None, num_workers=0)
