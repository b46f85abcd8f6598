"""Rollouts of the current policy as a sized stream: one Lightning epoch is one rollout iteration.

The stream draws prompts, generates, scores, takes log-probabilities without gradient, lets the algorithm assign
credit, and yields its minibatches. It is sized and read in this process (``num_workers=0``): an unsized loader is
fetched one batch ahead, which would make every rollout one step stale.
Dimensions: ``B`` sequences, ``R`` response tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, IterableDataset

from rft.config import OnPolicyConfig
from rft.errors import UserError
from rft.models.backbone import Backbone, Role
from rft.ops.kl import sequence_kl
from rft.rollout import RolloutEngine, pad_prompts, uniforms
from rft.types import OnPolicyBatch, Rollouts, Sequences

T = TypeVar("T")


class RewardSource(Protocol):
    """Scores rollouts. Gold is none of these: only evaluation reads it."""

    def score(self, sequences: Sequences) -> Tensor:
        """One number a sequence. Shape [B]."""
        ...


class Learner(Protocol):
    """What the stream asks of an algorithm."""

    config: Any
    backbone: Backbone
    needs: ClassVar[Any]
    rollout_metrics: dict[str, float]

    @property
    def current_epoch(self) -> int:
        """Finished iterations."""
        ...

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """Assign credit."""
        ...


def _spread() -> torch.device | None:
    """Where tensors must be that the ranks exchange; None in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def all_sum(values: Sequence[float]) -> list[float]:
    """Sums over all ranks; the values themselves in a single process."""
    total = torch.tensor(list(values), dtype=torch.float64, device=_spread())
    if _spread() is not None:
        torch.distributed.all_reduce(total)
    return [float(x) for x in total]


def all_max(value: int) -> int:
    """The largest value of all ranks."""
    largest = torch.tensor(value, device=_spread())
    if _spread() is not None:
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def all_rows(data: T, world: int) -> T:
    """A frozen dataclass with the rows of all ranks, in their order; every tensor in it has the same shape on each."""
    if world == 1:
        return data

    def whole(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return all_rows(value, world)
        if not isinstance(value, Tensor):
            return value
        parts = [torch.empty_like(value) for _ in range(world)]
        torch.distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    fields = {f.name: whole(getattr(data, f.name)) for f in dataclasses.fields(data)}  # type: ignore[arg-type]
    return replace(data, **fields)  # type: ignore[type-var]


def widen(seq: Sequences, width: int, pad_id: int) -> Sequences:
    """Responses padded to a width of R tokens."""
    more = width - seq.response_ids.shape[1]
    ids, mask = pad(seq.response_ids, (0, more), value=pad_id), pad(seq.response_mask, (0, more), value=False)
    return replace(seq, response_ids=ids, response_mask=mask)


class RolloutStream(IterableDataset[OnPolicyBatch]):
    """Rollouts and their minibatches.

    Prompts and sampling numbers are functions of the seed and the iteration alone: a resumed run draws what an
    uninterrupted one would, and the union over ranks does not depend on their number.
    """

    def __init__(
        self,
        algorithm: Learner,
        engine: RolloutEngine,
        reward: RewardSource | None,
        prompts: Sequence[Sequence[int]],
        *,
        response_tokens: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        config = algorithm.config
        assert isinstance(config, OnPolicyConfig)
        self.algorithm, self.engine, self.reward, self.prompts, self.config = (
            algorithm,
            engine,
            reward,
            prompts,
            config,
        )
        self.response_tokens, self.seed, self.accumulate = response_tokens, seed, accumulate
        self.rank, self.world = rank, world
        rows = config.prompts_per_iteration * config.samples_per_prompt
        parts = config.minibatches * accumulate * world
        if config.prompts_per_iteration > len(prompts):
            raise UserError(
                f"algorithm.prompts_per_iteration={config.prompts_per_iteration}: there are {len(prompts)} training "
                "questions; ask for at most as many, or raise algorithm.samples_per_prompt"
            )
        if config.prompts_per_iteration % world or rows % parts:
            raise ValueError(
                f"{rows} rollouts do not divide into {config.minibatches} minibatches x {accumulate} microbatches x "
                f"{world} ranks; change algorithm.prompts_per_iteration"
            )
        self.micro = rows // parts

    def __len__(self) -> int:
        return self.config.epochs * self.config.minibatches * self.accumulate

    def draw_prompts(self, iteration: int) -> list[int]:
        """Indices of the iteration's prompts, over all ranks: each prompt once before any comes again."""
        n, start = len(self.prompts), iteration * self.config.prompts_per_iteration
        places = range(start, start + self.config.prompts_per_iteration)
        orders = {p: np.random.default_rng([self.seed, p]).permutation(n) for p in {place // n for place in places}}
        return [int(orders[place // n][place % n]) for place in places]

    @torch.no_grad()
    def collect(self, iteration: int) -> Rollouts:
        """Generate and score this rank's rollouts of one iteration with the current weights."""
        backbone: Backbone = self.algorithm.backbone
        k = self.config.samples_per_prompt
        chosen = [i for i in self.draw_prompts(iteration) for _ in range(k)]
        numbers = uniforms(len(chosen), self.response_tokens, self.seed, iteration)
        share = len(chosen) // self.world
        mine = slice(self.rank * share, (self.rank + 1) * share)
        ids, mask = pad_prompts([self.prompts[i] for i in chosen], backbone.pad_id, backbone.device)
        self.engine.sync(backbone)
        seq = self.engine.generate(ids[mine], mask[mine], numbers[mine].to(backbone.device), self.config.temperature)
        seq = widen(seq, all_max(seq.response_ids.shape[1]), backbone.pad_id)
        seq = backbone.with_trunk(seq)
        parts = [seq[slice(i, i + self.micro)] for i in range(0, len(seq), self.micro)]
        needs, t = self.algorithm.needs, self.config.temperature
        logprobs = torch.cat([backbone.logprobs(Role.policy, p, t) for p in parts])
        ref = torch.cat([backbone.logprobs(Role.reference, p, t) for p in parts]) if "reference" in needs else None
        values = torch.cat([backbone.values(p) for p in parts]) if "value" in needs else None
        rewards = torch.cat([self.reward.score(p) for p in parts]) if self.reward else torch.zeros(len(seq))
        truncated = seq.truncated(backbone.eos_id)
        measured = {"length": seq.lengths, "truncated": truncated}
        if self.reward is not None:
            measured["reward"] = rewards
        if ref is not None:
            measured["kl"] = sequence_kl(logprobs, ref, seq.response_mask)
        count, *sums = all_sum([len(seq), *(float(x.double().sum()) for x in measured.values())])
        metrics = {f"rollout/{name}": total / count for name, total in zip(measured, sums, strict=True)}
        group = torch.tensor(chosen[mine], device=backbone.device)
        return Rollouts(seq, logprobs, rewards, truncated, group, ref, values, metrics)

    def __iter__(self) -> Iterator[OnPolicyBatch]:
        iteration = self.algorithm.current_epoch
        rollouts = self.collect(iteration)
        batch = self.algorithm.prepare(rollouts)
        self.algorithm.rollout_metrics = dict(rollouts.metrics)
        # Every rank holds the rows of all, so that a minibatch has the same rows however many ranks there are.
        batch = all_rows(batch, self.world)
        per_step = self.micro * self.accumulate * self.world
        for epoch in range(self.config.epochs):
            # The first pass keeps the order in which old log-probs were taken, so that its first ratio is exactly 1.
            rows = torch.arange(len(batch))
            if epoch:
                rows = torch.from_numpy(np.random.default_rng([self.seed, iteration, epoch]).permutation(len(batch)))
            for step in rows.split(per_step):
                yield from self._microbatches(batch[step])

    def _microbatches(self, minibatch: OnPolicyBatch) -> Iterator[OnPolicyBatch]:
        """This rank's microbatches, weighted so that the mean over all of them is the mean over all counted tokens."""
        total = float(minibatch.sequences.response_mask.sum())
        for start in range(self.rank * self.micro, len(minibatch), self.world * self.micro):
            part = minibatch[slice(start, start + self.micro)]
            tokens = float(part.sequences.response_mask.sum())
            yield replace(part, weight=tokens * self.accumulate * self.world / total)


class OnPolicyData(lightning.LightningDataModule):
    """Rollouts for a Lightning trainer."""

    def __init__(self, stream: RolloutStream) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader[OnPolicyBatch]:
        """One rollout iteration, made in this process when it is asked for."""
        return DataLoader(self.stream, batch_size=None, num_workers=0)
