"""Rollouts of the current policy as a sized stream: one Lightning epoch is one rollout iteration.

The stream draws prompts, generates, scores, takes log-probabilities without gradient, lets the algorithm assign
credit, and yields its minibatches. It is sized and read in this process (``num_workers=0``): an unsized loader is
fetched one batch ahead, which would make every rollout one step stale.
Dimensions: ``B`` sequences, ``R`` response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeAlias

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, IterableDataset

from rft.budget import Meter, Prices, Usage
from rft.config import OnPolicyConfig
from rft.data.draws import seed_process
from rft.data.judged import label_pairs, leave_out_unscored
from rft.data.microbatches import count_microbatches, cut, passes, weighted
from rft.data.ranks import all_max, all_rows, all_sum
from rft.errors import UserError
from rft.feedback.base import Feedback, require_mostly_read
from rft.models.backbone import Backbone, Role
from rft.ops.kl import sequence_kl
from rft.rollout import RolloutEngine, pad_prompts, uniforms
from rft.types import OnPolicyBatch, PreferenceBatch, Rollouts, Sequences, join

SCORES = ("reward", "greedy_reward")  # of these NaN means that there is none
Batch: TypeAlias = OnPolicyBatch | PreferenceBatch  # what an algorithm makes of rollouts


class RewardSource(Protocol):
    """Scores rollouts. Gold is none of these: only evaluation reads it."""

    @property
    def may_lack(self) -> bool:
        """Whether a response may have no score, which is NaN."""
        ...

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

    def assign_credit(self, rollouts: Rollouts) -> Batch:
        """The batch to learn from."""
        ...

    def checked_count(self, batch: Batch) -> int:
        """How many things the loss is a mean over."""
        ...


def widen(seq: Sequences, width: int, pad_id: int) -> Sequences:
    """Responses padded to a width of R tokens."""
    more = width - seq.response_ids.shape[1]
    ids, mask = pad(seq.response_ids, (0, more), value=pad_id), pad(seq.response_mask, (0, more), value=False)
    trunk = None if seq.trunk is None else pad(seq.trunk, (0, 0, 0, more))
    return replace(seq, response_ids=ids, response_mask=mask, trunk=trunk)


class RolloutStream(IterableDataset[Batch]):
    """Rollouts and their minibatches.

    Prompts and sampling numbers are functions of the seed and the iteration alone: a resumed run draws what an
    uninterrupted one would, and the union over ranks does not depend on their number.

    Near a limit of the meter, an iteration is drawn a minibatch at a time and is as long as still fits.
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
        microbatch_tokens: int | None = None,
        rank: int = 0,
        world: int = 1,
        meter: Meter | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        config = algorithm.config
        assert isinstance(config, OnPolicyConfig)
        self.meter = meter or Meter(algorithm.backbone.usage, Prices(0.0, 0.0, 0.0))
        self.taken = 0
        """Optimiser steps of the first pass over the last iteration: how much of it was made."""
        self.measured: dict[str, Tensor] = {}
        """What the last iteration's responses on this rank came to, [B] each, and the ``advantage`` of each token."""
        self.algorithm, self.engine, self.prompts, self.config = algorithm, engine, prompts, config
        self.reward, self.feedback = reward, feedback
        self.response_tokens, self.seed = response_tokens, seed
        self.rank, self.world = rank, world
        rows, learnt = config.prompts_per_iteration * config.samples_per_prompt, config.batch_rows
        self.accumulate = accumulate = count_microbatches(
            *(n // (config.minibatches * world) for n in (rows, learnt)),
            row_tokens=max(map(len, prompts), default=0) + response_tokens,
            least=accumulate,
            tokens=microbatch_tokens,
        )
        self.parts = config.minibatches * accumulate * world
        if config.prompts_per_iteration > len(prompts):
            raise UserError(
                f"algorithm.prompts_per_iteration={config.prompts_per_iteration}: there are {len(prompts)} training "
                "questions; ask for at most as many, or raise algorithm.samples_per_prompt"
            )
        if config.prompts_per_iteration % world or rows % self.parts or learnt % self.parts:
            raise ValueError(
                f"{rows} rollouts ({learnt} rows to learn from) do not divide into {config.minibatches} minibatches x "
                f"{accumulate} microbatches x {world} ranks; change algorithm.prompts_per_iteration"
            )
        self.micro = rows // self.parts

    def __len__(self) -> int:
        return self.config.epochs * self.config.minibatches * self.accumulate

    @property
    def least(self) -> int:
        """Minibatches that an iteration begins with, whatever is left: what is generated at once near a limit."""
        return self.config.minibatches // self._pieces(self.config.prompts_per_iteration)

    def _pieces(self, prompts: int) -> int:
        """Into how many parts an iteration's prompts can be divided, each of whole minibatches and ranks."""
        return math.gcd(self.config.minibatches, prompts // self.world)

    def draw_prompts(self, iteration: int) -> list[int]:
        """Indices of the iteration's prompts, over all ranks: each prompt once before any comes again."""
        n, start = len(self.prompts), iteration * self.config.prompts_per_iteration
        places = range(start, start + self.config.prompts_per_iteration)
        orders = {p: np.random.default_rng([self.seed, p]).permutation(n) for p in {place // n for place in places}}
        return [int(orders[place // n][place % n]) for place in places]

    def _draw(self, iteration: int) -> tuple[Sequences, Tensor, Tensor | None]:
        """This rank's responses, the group of each [B], and if the algorithm needs them their labels [B].

        What is drawn at once is labelled at once, so that a limit on labels is met as soon as one on tokens.
        """
        drawn, k, backbone = self.draw_prompts(iteration), self.config.samples_per_prompt, self.algorithm.backbone
        width = max(len(self.prompts[i]) for i in drawn)
        numbers = uniforms(len(drawn) * k, self.response_tokens, self.seed, iteration)
        depth = backbone.trunk.depth
        found: list[Sequences] = []
        groups: list[Tensor] = []
        labels: list[Tensor] = []
        for part in self._parts(len(drawn)):
            share = len(part) * k // self.world
            mine = list(range(part.start * k + self.rank * share, part.start * k + (self.rank + 1) * share))
            asked = [self.prompts[drawn[row // k]] for row in mine]
            ids, mask = pad_prompts(asked, backbone.pad_id, backbone.device, width)
            seq = self.engine.generate(ids, mask, numbers[mine].to(ids.device), self.config.temperature, depth=depth)
            found.append(widen(seq, all_max(seq.response_ids.shape[1]), backbone.pad_id))
            # A prompt that is drawn twice in an iteration makes two groups, so that all have the same size.
            groups.append(torch.tensor(mine, device=backbone.device) // k)
            backbone.usage.prompts += len(mine) // k
            if "feedback" in self.algorithm.needs:
                assert self.feedback is not None
                labels.append(label_pairs(self.feedback, seq, groups[-1], backbone))
        return join(found, backbone.pad_id), torch.cat(groups), torch.cat(labels) if labels else None

    def _parts(self, prompts: int) -> Iterator[range]:
        """The places of an iteration's prompts that are generated at once: all, or near a limit a minibatch's."""
        meter, config = self.meter, self.config
        parts = self._pieces(prompts)
        whole = None if meter.part is None else meter.part.scaled(config.minibatches)
        if not meter.limits or (whole is not None and meter.lacking(self._at_most(whole, prompts)) is None):
            yield range(prompts)
            return
        size = prompts // parts
        for part in range(parts):
            # What is drawn must still be learned from: all of the iteration so far counts, as if it were over.
            if part:
                used = meter.used_in_round()
                rest = whole.scaled((part + 1) / parts).add(used, -1) if whole else used.scaled(1 / part)
                if meter.lacking(rest) is not None:
                    return
            yield range(part * size, (part + 1) * size)

    def _at_most(self, whole: Usage, prompts: int) -> Usage:
        """An iteration's expected usage with responses of full length: what is drawn at once cannot be stopped."""
        rows = prompts * self.config.samples_per_prompt
        return replace(whole, generated_tokens=float(rows * self.response_tokens))

    @torch.no_grad()
    def collect(self, iteration: int) -> Rollouts:
        """Generate and score this rank's rollouts of one iteration with the current weights."""
        backbone: Backbone = self.algorithm.backbone
        k = self.config.samples_per_prompt
        self.engine.sync(backbone)
        seq, group, labels = self._draw(iteration)
        needs, t = self.algorithm.needs, self.config.temperature
        greedy = self._greedy_rewards(seq.prompt_ids[::k], seq.prompt_mask[::k]) if "greedy" in needs else None
        self.engine.rest()  # the passes and their graphs want the memory
        seq = backbone.with_trunk(seq)
        # The rows of the first step are passed as its loss will pass them: their ratios are exactly 1. The reference
        # passes all as the policy does: before the first step there is no distance between them.
        step = self.micro * self.accumulate * self.world
        parts = [*cut(seq[:step], self.micro), *self._cut(seq[step:])]
        # Of each part all at once: a critic on the policy reads the same pass as the log-probs.
        asked = [lambda p: backbone.logprobs(Role.policy, p, t), *([backbone.values] if "value" in needs else [])]
        logprobs, *critic = self._passes(parts, asked)
        ref = torch.cat([backbone.logprobs(Role.reference, p, t) for p in parts]) if "reference" in needs else None
        values = critic[0] if critic else None
        rewards = self._score(self._cut(seq)) if self.reward else torch.zeros(len(seq), device=backbone.device)
        truncated = seq.truncated(backbone.eos_id)
        measured = {"length": seq.lengths, "truncated": truncated}
        if self.reward is not None:
            measured["reward"] = rewards
        if greedy is not None:
            measured["greedy_reward"] = greedy = greedy.repeat_interleave(k)
        if ref is not None:
            measured["kl"] = sequence_kl(logprobs, ref, seq.response_mask)
        metrics = self._means(measured) | self._missing(rewards, labels)
        self.measured = measured
        if labels is not None:
            labels = labels.nan_to_num(nan=0.5).to(logprobs)
        made = Rollouts(seq, logprobs, rewards, truncated, group, ref, values, greedy, metrics, labels)
        return leave_out_unscored(made) if self.reward is not None and self.reward.may_lack else made

    def _passes(self, parts: Sequence[Sequences], asked: Sequence[Callable[[Sequences], Tensor]]) -> list[Tensor]:
        """What is asked of all parts, [B, R] each; of the first with its graph, as its loss comes before any step."""
        config = self.config
        # Other rows are learned from than were drawn: pairs, or the best of each group.
        others = config.batch_rows != config.prompts_per_iteration * config.samples_per_prompt
        # The graphs of distributed training are made within its own forward.
        with nullcontext() if others or self.world > 1 else self.algorithm.backbone.ahead.before_loss():
            found = [[ask(parts[0]).detach() for ask in asked]]
        found += [[ask(part) for ask in asked] for part in parts[1:]]
        return [torch.cat(of_parts) for of_parts in zip(*found, strict=True)]

    def _means(self, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over the responses of all ranks, by metric; of rewards over those that have one."""
        known = [x[~x.isnan()] if name in SCORES else x for name, x in measured.items()]
        found = all_sum([v for x in known for v in (float(x.double().sum()), len(x))])
        return {
            f"rollout/{name}": total / max(count, 1.0)
            for name, total, count in zip(measured, found[::2], found[1::2], strict=True)
        }

    def _missing(self, rewards: Tensor, labels: Tensor | None) -> dict[str, float]:
        """Responses without a score, and pairs without a label, on all ranks.

        Raises:
            UserError: if these are most of them.
        """
        found: dict[str, float] = {}
        if self.reward is not None and self.reward.may_lack:
            found["rollout/unjudged"], asked = all_sum([float(rewards.isnan().sum()), len(rewards)])
            require_mostly_read(found["rollout/unjudged"], asked, "the responses of an iteration")
        if labels is not None:
            found["rollout/excluded"], asked = all_sum([float(labels.isnan().sum()) / 2, len(labels) / 2])
            require_mostly_read(found["rollout/excluded"], asked, "the pairs of an iteration")
        return found

    def _cut(self, seq: Sequences) -> list[Sequences]:
        """Parts to pass without graph: those of a microbatch, or larger ones where its rows are few."""
        return passes(seq, self.micro, self.config.samples_per_prompt)

    def _score(self, parts: Sequence[Sequences]) -> Tensor:
        assert self.reward is not None
        return torch.cat([self.reward.score(p) for p in parts])

    def _greedy_rewards(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """The reward of the most likely response, token by token, to each prompt. Shape [prompts]."""
        if self.reward is None:
            raise ValueError('needs = {"greedy"} without "reward": there is nothing to score the greedy responses with')
        draws = torch.zeros(len(prompt_ids), self.response_tokens, device=prompt_ids.device)
        backbone = self.algorithm.backbone
        seq = backbone.with_trunk(
            self.engine.generate(prompt_ids, prompt_mask, draws, temperature=0.0, depth=backbone.trunk.depth)
        )
        return self._score(self._cut(seq))

    def __iter__(self) -> Iterator[Batch]:
        iteration = self.algorithm.current_epoch
        seed_process(self.seed, iteration, self.rank)
        rollouts = self.collect(iteration)
        batch = self.algorithm.assign_credit(rollouts)
        self.algorithm.rollout_metrics = dict(rollouts.metrics)
        if isinstance(batch, OnPolicyBatch):
            self.measured["advantage"] = batch.advantages[batch.sequences.response_mask]
        # Every rank holds the rows of all, so that a minibatch has the same rows however many ranks there are.
        yield from self.minibatches(all_rows(batch, self.world), iteration)

    def minibatches(self, batch: Batch, iteration: int) -> Iterator[Batch]:
        """This rank's microbatches of all passes over an iteration's batch.

        Raises:
            ValueError: if its rows do not divide into microbatches.
        """
        micro = self.config.batch_rows // self.parts
        if len(batch) % (micro * self.accumulate * self.world):
            raise ValueError(
                f"{type(self.algorithm).__name__}.prepare gave {len(batch)} rows, which do not divide into "
                f"{self.config.minibatches} minibatches x {self.accumulate} microbatches x {self.world} ranks; let its "
                "Config's batch_rows say how many it makes, and it is refused before the run"
            )
        self.taken = 0
        for epoch in range(self.config.epochs):
            # The first pass keeps the order in which old log-probs were taken, so that its first ratio is exactly 1.
            rows = torch.arange(len(batch))
            if epoch:
                rows = torch.from_numpy(np.random.default_rng([self.seed, iteration, epoch]).permutation(len(batch)))
            for step in rows.split(micro * self.accumulate * self.world):
                if self.taken and not self.meter.go_on():
                    return
                self.taken += epoch == 0
                mine = slice(self.rank, None, self.world)
                yield from weighted(
                    batch[step], micro, self.algorithm.checked_count, self.accumulate * self.world, mine
                )


class OnPolicyData(lightning.LightningDataModule):
    """Rollouts for a Lightning trainer."""

    def __init__(self, stream: RolloutStream) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader[Batch]:
        """One rollout iteration, made in this process when it is asked for."""
        return DataLoader(self.stream, batch_size=None, num_workers=0)
