"""The side of rft: its own algorithms, data, callbacks, rollout engine and backbone under Lightning's Trainer.

A step is what a trial does between two optimiser steps: rollouts, scores, old and reference log-probs, update,
callbacks.
Two things differ from a trial. No checkpoint is written, as on the other sides. What a trial has of all its answers
before the first step, reference log-probs and the output of the layers below the adapters, is computed within the step;
only ``dpo_kept`` keeps both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import Checkpoint

from experiments.benchmarks import turns
from experiments.benchmarks.cases import BY_NAME, LR, Job, Prepared
from experiments.benchmarks.turns import Turns
from rft.algorithms.base import Algorithm
from rft.budget import Meter, Prices, Usage
from rft.callbacks.curves import Curves
from rft.callbacks.training import BudgetKeeper, History, Snapshots, TrainingBar
from rft.config import build, to_config
from rft.config.build import target_class
from rft.config.compose import compose
from rft.data.offline import (
    OfflineData,
    OfflineStream,
    comparison_batches,
    load_answers,
    load_comparisons,
    reference_logprobs,
    to_pairs,
)
from rft.data.on_policy import OnPolicyData
from rft.models.backbone import Backbone, Role
from rft.models.pretrained import load_folder
from rft.rewards.base import Fitting, Reward, Standardised
from rft.rewards.learned import LearnedReward
from rft.rollout import RolloutEngine, uniforms
from rft.runtime import keep_freed_memory
from rft.store import Entry, Store
from rft.study.fixed_answers import REFERENCE, write_reference
from rft.study.training import fit_shared, make_backbone, make_data, quiet, roles_of, use_threads
from rft.types import ComparisonBatch, PreferenceBatch, Sequences

NO_TOKEN = -1  # ends no response
SOME_RESPONSES = 32
ENDING_SHARE = 1 / 20  # of a model's own tokens, that the token makes up by which responses end early


class DistinctCharacters(Reward):
    """A rule that costs nothing, so that the step is all that is timed: as many points as different characters."""

    def score(self, sequences: Sequences) -> torch.Tensor:
        """Shape [B]."""
        return torch.tensor([float(len(set(text))) for text in self.responses(sequences)])


class Gate(Checkpoint):
    """Lets Lightning do one step at a time; where a trial has the callback that saves checkpoints."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_start(self, *_: Any) -> None:
        """Ready."""
        self.turns.boundary()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """If the optimiser's step is made, wait; what its epoch still has to do is counted to the next one."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.turns.boundary()


class ReferenceInStep(OfflineStream):
    """Pairs whose reference log-probs are computed when they are learned from."""

    def microbatches(self, step: Any) -> Iterator[Any]:
        """See the base class."""
        backbone, n = self.algorithm.backbone, len(step)
        both = backbone.with_trunk(step.both)
        ref = reference_logprobs(both, backbone)
        first, second = slice(0, n), slice(n, 2 * n)
        yield from super().microbatches(
            PreferenceBatch(both[first], both[second], step.preference, ref[first], ref[second])
        )


class InTurn(torch.utils.data.Dataset[ComparisonBatch]):
    """Batches of comparisons, handed out one at a time."""

    def __init__(self, batches: Sequence[ComparisonBatch], backbone: Backbone, turns: Turns) -> None:
        self.batches, self.backbone, self.turns = batches, backbone, turns

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> ComparisonBatch:
        self.turns.boundary()
        batch = self.batches[number]
        return replace(batch, answers=self.backbone.with_trunk(batch.answers))


class Ours:
    """Does the steps of a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.case, self.scratch = job, BY_NAME[job.case], Path(job.scratch)
        self.turns = Turns(job.shape.tokens)
        self.cfg = compose(self._overrides())
        self.strategy, self.lora = build(self.cfg.strategy), to_config(self.cfg.model).lora
        use_threads(self.strategy)
        keep_freed_memory()
        quiet()

    def _overrides(self) -> list[str]:
        job, case = self.job, self.case
        found = [
            f"model={job.model}",
            f"model.lora.enabled={str(job.lora).lower()}",
            "strategy.accelerator=cpu",
            "strategy.precision=bf16",
            f"task.response_tokens={job.shape.response}",
            f"reward.lr={LR}",
            f"reward.prompts_per_step={job.shape.sequences // 2}",
        ]
        if case.algorithm in ("decode", "reward"):
            return found
        found += [f"algorithm={case.algorithm}", f"algorithm.lr={LR}"]
        if case.algorithm == "dpo":
            return [*found, f"algorithm.pairs_per_step={job.shape.sequences // 2}"]
        found += [f"algorithm.iterations={job.steps}", "algorithm.minibatches=1", "algorithm.epochs=1"]
        found += [f"algorithm.prompts_per_iteration={case.prompts(job.shape)}"]
        found += [f"algorithm.samples_per_prompt={case.samples}"]
        if case.algorithm != "ppo":
            return found
        on_policy = str(case.name == "ppo_head").lower()
        return [*found, f"algorithm.critic_lr={LR}", f"algorithm.critic_on_policy={on_policy}"]

    @cached_property
    def folder(self) -> Path:
        """The model."""
        return Path(self.job.known.folder)

    def backbone(
        self, roles: Sequence[Role], trained: Sequence[Role], *, reference: bool = True
    ) -> tuple[Backbone, RolloutEngine]:
        """As a trial makes them, but with an end token that the model does not have: responses are of full length."""
        shares = {"critic_on_policy": self.case.name == "ppo_head", "reference": reference}
        backbone, engine = make_backbone(self.folder, self.strategy, self.lora, roles, trained, **shares)
        backbone.tokenizer.add_special_tokens({"eos_token": "<never sampled>"})
        engine.eos_id = backbone.eos_id
        assert engine.eos_id >= engine.model.get_output_embeddings().weight.shape[0]
        return backbone, engine

    def run(self) -> None:
        """Steps, until nobody asks for more."""
        runs: dict[str, Callable[[], None]] = {"decode": self.decode, "reward": self.reward, "dpo": self.dpo}
        runs.get(self.case.algorithm, self.on_policy)()

    def decode(self) -> None:
        """Responses of the policy, its adapters merged."""
        backbone, engine = self.backbone([Role.policy], [Role.policy])
        engine.sync(backbone)
        if self.case.name == "decode_ending":
            engine.eos_id = self.job.known.ending_token
        shape = self.job.shape
        ids = prompts(self.case.prompts(shape), shape.prompt, self._vocabulary()).repeat_interleave(
            self.case.samples, 0
        )
        done = iter(range(self.job.steps))

        def step() -> None:
            numbers = uniforms(len(ids), shape.response, next(done))
            made = engine.generate(ids, torch.ones_like(ids, dtype=torch.bool), numbers, 1.0)
            self.turns.tokens = int(made.response_mask.sum())

        self.turns.repeat(step)

    def reward(self) -> None:
        """The reward model's own training."""
        write_pairs(self.scratch, self.job, self._vocabulary(), self.job.steps + 1)
        backbone, _ = self.backbone([Role.reward], [Role.reward], reference=LearnedReward.reads_reference)
        answers, comparisons = (
            load_answers(self.scratch, backbone.pad_id),
            load_comparisons(self.scratch, self.scratch, heldout=False),
        )

        def train(module: Any, batches: Sequence[ComparisonBatch]) -> None:
            waiting = InTurn(batches, backbone, self.turns)
            fit_shared(module, waiting, len(batches), "reward model", self.strategy)

        def batches(prompts_per_step: int, epochs: int, seed: int) -> list[ComparisonBatch]:
            return comparison_batches(comparisons, answers, prompts_per_step, epochs, seed)

        LearnedReward(to_config(self.cfg.reward), backbone).fit(Fitting(answers, {}, batches, train))

    def dpo(self) -> None:
        """DPO, with the reference in the step or kept."""
        write_pairs(self.scratch, self.job, self._vocabulary(), self.job.steps)
        algorithm, engine = self._algorithm(None)
        meter = Meter(algorithm.backbone.usage, Prices(0.0, 0.0, 0.0))
        answers = load_answers(self.scratch, algorithm.backbone.pad_id)
        if self.case.name == "dpo_kept":
            write_reference(reference_logprobs(answers, algorithm.backbone), self.scratch)
            self._fit(algorithm, self._data(algorithm, engine, None, meter), meter)
            return
        pairs = to_pairs(load_comparisons(self.scratch, self.scratch, heldout=False), answers)
        rows = self.job.shape.sequences // 2
        most = self.strategy.microbatch_tokens(algorithm.backbone.kept_of_token, all_weights=not self.job.lora)
        stream = ReferenceInStep(
            algorithm, pairs, rows_per_step=rows, epochs=1, seed=0, meter=meter, microbatch_tokens=most
        )
        self._fit(algorithm, OfflineData(stream), meter)

    def on_policy(self) -> None:
        """Rollouts and one update."""
        write_questions(self.scratch, self.job, self._vocabulary())
        rule = "value" not in target_class(self.cfg.algorithm).needs
        algorithm, engine = self._algorithm(DistinctCharacters if rule else LearnedReward)
        source = (DistinctCharacters if rule else LearnedReward)(to_config(self.cfg.reward), algorithm.backbone)
        reward = Standardised(source)
        if Role.critic in algorithm.backbone.trained:
            reward.start_critic()
        meter = Meter(algorithm.backbone.usage, Prices(0.0, 0.0, 0.0))
        self._fit(algorithm, self._data(algorithm, engine, reward, meter), meter)

    def _algorithm(self, reward: type[Reward] | None) -> tuple[Algorithm, RolloutEngine]:
        found: type[Algorithm] = target_class(self.cfg.algorithm)
        roles, trained = roles_of(found, reward or DistinctCharacters)
        backbone, engine = self.backbone(roles, trained)
        return found(to_config(self.cfg.algorithm), backbone), engine

    def _data(
        self, algorithm: Algorithm, engine: RolloutEngine, reward: Standardised | None, meter: Meter
    ) -> OnPolicyData | OfflineData:
        names = ("questions", "candidates", "preferences", REFERENCE)
        inputs = {name: Entry(name, "", "", self.scratch, {}) for name in names}
        return make_data(
            algorithm,
            engine,
            reward,
            inputs,
            self.strategy,
            response_tokens=self.job.shape.response,
            seed=0,
            meter=meter,
            label=Usage(),
        )

    def _fit(self, algorithm: Algorithm, data: OnPolicyData | OfflineData, meter: Meter) -> None:
        """As ``rft.study.training.fit_policy``, with the gate in place of the checkpoints."""
        history = History(meter)
        watch = [BudgetKeeper(meter, data.stream), Snapshots(0, meter, self.scratch), history]
        callbacks = [TrainingBar("", self.job.steps), *watch, Curves(history, None), Gate(self.turns)]
        trainer = self.strategy.trainer(
            epochs=self.job.steps, root=self.scratch, callbacks=callbacks, accumulate=data.stream.accumulate
        )
        trainer.fit(algorithm, datamodule=data)

    def _vocabulary(self) -> int:
        return len(load_folder_tokenizer(self.folder))


def load_folder_tokenizer(folder: Path) -> Any:
    """The tokenizer alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def prompts(rows: int, tokens: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Token ids that are no special ones. Shape [rows, tokens]."""
    return torch.randint(300, min(vocabulary, 4000), (rows, tokens), generator=torch.Generator().manual_seed(seed))


def write_pairs(folder: Path, job: Job, vocabulary: int, steps: int) -> None:
    """Candidates, pairs and labels as the stages leave them: two answers to each prompt, the first one better."""
    shape = job.shape
    n = steps * shape.sequences // 2
    asked = prompts(n, shape.prompt, vocabulary, 1).tolist()
    answers = prompts(2 * n, shape.response, vocabulary, 2).tolist()
    rows = [
        {"prompt_id": str(i // 2), "sample": i % 2, "prompt_ids": asked[i // 2], "response_ids": answers[i]}
        for i in range(2 * n)
    ]
    pairs = [{"pair": i, "prompt_id": str(i), "first": 2 * i, "second": 2 * i + 1, "heldout": False} for i in range(n)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "candidates.parquet")
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    labels = [{"pair": i, "preference": 1.0} for i in range(n)]
    pq.write_table(pa.Table.from_pylist(labels), folder / "labels.parquet")


def write_questions(folder: Path, job: Job, vocabulary: int) -> None:
    """Training questions as the stage leaves them: new ones in every step."""
    n = job.steps * BY_NAME[job.case].prompts(job.shape)
    rows = [{"token_ids": ids, "split": "train"} for ids in prompts(n, job.shape.prompt, vocabulary).tolist()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "questions.parquet")


def prepare(job: Job) -> None:
    """Make the model, in a process of its own so that no side's memory holds the conversion, and say where it is."""
    told = Turns(0)
    quiet()
    folder = build(compose([f"model={job.model}"]).model, store=Store.default()).prepare().path
    model, tokenizer = load_folder(folder, torch.float32)
    ids = prompts(SOME_RESPONSES, job.shape.prompt, len(tokenizer))
    engine = RolloutEngine(model, NO_TOKEN, pad_id=0)
    numbers = uniforms(SOME_RESPONSES, job.shape.response, 0)
    made = engine.generate(ids, torch.ones_like(ids, dtype=torch.bool), numbers, 1.0).response_ids
    token = int((made.flatten().bincount() / made.numel() - ENDING_SHARE).abs().argmin())
    ended = made == token
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, made.shape[1]).tolist()
    prepared = Prepared(str(folder), token, tuple(lengths))
    told.tell(folder=prepared.folder, ending_token=prepared.ending_token, lengths=prepared.lengths)


if __name__ == "__main__":
    given = turns.job()
    prepare(given) if given.prepared is None else Ours(given).run()
