"""Every algorithm, a stranger's too, stops within one minibatch of whatever limit it is given."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import lightning
import pytest

from rft.algorithms.base import Algorithm
from rft.budget import Meter, Prices, Usage
from rft.callbacks.training import BudgetKeeper
from rft.config import compose, to_config
from rft.config.build import target_class
from rft.data.offline import OfflineData, OfflineStream
from rft.data.on_policy import OnPolicyData, RolloutStream
from rft.strategy import AcceleratorEnum, Strategy
from rft.strategy import Config as StrategyConfig
from rft.study.training import quiet
from rft.testing.world import PROMPTS, TOKENS, TokenFeedback, TokenReward, World
from rft.types import PreferenceBatch
from tests.conformance.derived import derived, trainable
from tests.plugin_package.rft_remax import remax

ITERATIONS, MINIBATCHES, PASSES = 6, 4, 3
PRICES = Prices(device_hour=3600.0, human_label=0.0, judge_mtoken=0.0)  # a second of work is a unit of money
LABEL = Usage(labels=1, human_labels=3)
COUNTS = ("prompts", "generated_tokens", "trained_tokens", "flops", "labels")


class Watch(lightning.Callback):
    """What was used after each optimiser step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(self.meter.prices.amounts(self.meter.total()))


class Run:
    """A whole training run of an algorithm in the conformance suite's small world, by the real streams and trainer."""

    def __init__(
        self, found: type[Algorithm], config: Any, folder: Path, limits: dict[str, float], prices: Prices = PRICES
    ) -> None:
        world = World(found, config)
        world.engine.usage = world.backbone.usage
        self.meter = Meter(world.backbone.usage, prices, limits)
        if found.data_kind == "on_policy":
            size = {"iterations": ITERATIONS, "minibatches": MINIBATCHES, "epochs": 2}
            world.algorithm.config = dataclasses.replace(world.config, **size)
            reward = TokenReward() if "reward" in found.needs else None
            self.stream: Any = RolloutStream(
                world.algorithm,
                world.engine,
                reward,
                PROMPTS,
                response_tokens=TOKENS,
                seed=3,
                meter=self.meter,
                feedback=TokenFeedback() if "feedback" in found.needs else None,
            )
            data: Any = OnPolicyData(self.stream)
            epochs = ITERATIONS
        else:
            rows = world.labelled()
            self.stream = OfflineStream(
                world.algorithm,
                rows,
                rows_per_step=len(rows) // MINIBATCHES,
                epochs=PASSES,
                seed=3,
                meter=self.meter,
                label=LABEL,
            )
            data, epochs = OfflineData(self.stream), self.stream.lightning_epochs
        self.watch = Watch(self.meter)
        strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu))
        callbacks = [BudgetKeeper(self.meter, self.stream), self.watch]
        quiet()
        strategy.trainer(epochs=epochs, root=folder, callbacks=callbacks, shared=True).fit(world.algorithm, data)
        self.used = self.meter.prices.amounts(self.meter.last)

    def largest_minibatch(self, resource: str) -> float:
        """The most that one minibatch, its generation and all its passes, can have used."""
        if isinstance(self.stream, OfflineStream):
            used = [0.0, *(step[resource] for step in self.watch.steps)]
            return max(b - a for a, b in itertools.pairwise(used))
        # Generation is counted in the iteration's first step: a minibatch's share of it is at most the rows at their
        # longest; what is learned is at most twice the mean, for two passes over responses of unlike length.
        rows = len(PROMPTS) * self.stream.config.samples_per_prompt / MINIBATCHES
        exact = {"prompts": len(PROMPTS) / MINIBATCHES, "generated_tokens": rows * TOKENS}
        return exact.get(resource, 2 * self.used[resource] / len(self.watch.steps) * 2)


def subject(name: str) -> tuple[type[Algorithm], Any]:
    if name == "remax":
        return remax.Remax, remax.Config(name="remax")
    cfg = compose([f"algorithm={name}", "model=tiny"])
    return target_class(cfg.algorithm), to_config(cfg.algorithm)


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=[pytest.mark.slow] * (n in derived())) for n in trainable()), "remax"]
)
def test_stops_within_a_minibatch_of_every_count(name: str, tmp_path: Path) -> None:
    found, config = subject(name)
    whole = Run(found, config, tmp_path, {})
    assert whole.meter.stopped_by is None
    counted = [resource for resource in COUNTS if whole.used[resource] > 0]
    expected = {"prompts", "trained_tokens", "flops"}
    bought = {"labels"} if found.data_kind != "on_policy" or "feedback" in found.needs else set()
    sampled = {"generated_tokens"} if found.data_kind == "on_policy" else set()
    assert set(counted) == expected | sampled | bought
    for resource in counted:
        limit = 0.55 * whole.used[resource]
        limited = Run(found, config, tmp_path, {resource: limit})
        assert limited.meter.stopped_by == resource
        assert abs(limited.used[resource] - limit) <= whole.largest_minibatch(resource), (resource, limit, limited.used)
        assert 0 < len(limited.watch.steps) < len(whole.watch.steps)


@pytest.mark.parametrize("name", [*trainable(), "remax"])
def test_trained_tokens_are_those_of_what_is_learned_from(name: str) -> None:
    found, config = subject(name)
    if found.data_kind != "on_policy":
        pytest.skip("makes nothing ahead of its loss")
    world = World(found, config)
    world.algorithm.config = dataclasses.replace(world.config, minibatches=2, epochs=2)
    learned = 0
    for batch in world.stream():
        world.algorithm.checked_loss(batch).loss.backward()
        for seq in [batch.chosen, batch.rejected] if isinstance(batch, PreferenceBatch) else [batch.sequences]:
            learned += int(seq.prompt_mask.sum() + seq.response_mask.sum())
    assert world.backbone.usage.trained_tokens == learned


def test_a_critic_on_the_policy_takes_no_pass_of_its_own_in_any_part() -> None:
    found, config = subject("ppo")
    world = World(found, dataclasses.replace(config, critic_on_policy=True))
    world.algorithm.config = dataclasses.replace(world.config, minibatches=2)
    passes: list[object] = []
    world.backbone.copies["policy"].get_decoder().register_forward_hook(lambda *_: passes.append(None))
    for batch in world.stream():
        world.algorithm.checked_loss(batch).loss.backward()
    assert len(passes) == 3  # of two parts before the loss, and of the second in it


def test_a_limit_on_a_count_stops_every_run_at_the_same_step(tmp_path: Path) -> None:
    found, config = subject("grpo")
    one, two = (Run(found, config, tmp_path, {"flops": 4e6}) for _ in range(2))
    assert one.meter.stopped_by == "flops"
    assert [{r: step[r] for r in COUNTS} for step in one.watch.steps] == [
        {r: step[r] for r in COUNTS} for step in two.watch.steps
    ]


@pytest.mark.parametrize("name", ["ppo", "dpo", "remax"])
@pytest.mark.parametrize("resource", ["seconds", "money"])
def test_stops_within_a_minibatch_of_time_and_money(name: str, resource: str, tmp_path: Path) -> None:
    found, config = subject(name)
    Run(found, config, tmp_path, {})  # imports and first calls take longer than all that follows
    whole = Run(found, config, tmp_path, {})
    limit = 0.5 * whole.used[resource]
    limited = Run(found, config, tmp_path, {resource: limit})
    assert limited.meter.stopped_by == resource
    # The last step was begun before the limit was met, and what was left was less than a step was expected to take.
    before = [step for step in limited.watch.steps if step[resource] < limit]
    assert len(limited.watch.steps) - len(before) <= 1
    if len(before) == len(limited.watch.steps):
        assert limited.meter.part is not None
        part = limited.meter.prices.amounts(limited.meter.part)[resource]
        assert limit - limited.used[resource] <= 2 * max(part, limited.largest_minibatch(resource))


def test_a_limit_that_is_never_met_changes_nothing_but_how_rollouts_are_drawn(tmp_path: Path) -> None:
    found, config = subject("dpo")
    whole, free = Run(found, config, tmp_path, {"flops": 1e18}), Run(found, config, tmp_path, {})
    assert whole.meter.stopped_by is None
    assert {r: whole.used[r] for r in COUNTS} == {r: free.used[r] for r in COUNTS}


def test_labels_are_paid_once_and_at_their_price(tmp_path: Path) -> None:
    found, config = subject("dpo")
    prices = Prices(device_hour=0.0, human_label=0.5, judge_mtoken=0.0)
    whole = Run(found, config, tmp_path, {}, prices)
    assert whole.used["labels"] == len(PROMPTS) * 2
    assert whole.used["money"] == len(PROMPTS) * 2 * 3 * 0.5
    limited = Run(found, config, tmp_path, {"money": 12.0}, prices)
    assert limited.meter.stopped_by == "money"
    assert limited.used["money"] == 12.0  # eight labels of 1.50, two steps of four


def test_what_is_prepared_counts_once_and_what_starts_the_trainer_does_not() -> None:
    usage = Usage(flops=5.0)  # of before the meter was made
    meter = Meter(usage, PRICES, {"flops": 100.0})
    usage.flops += 30
    meter.prepared()
    usage.flops += 1000
    meter.begin()
    usage.flops += 7
    assert meter.total().flops == 37
    assert meter.used_in_round().flops == 7  # the next round is not expected to prepare again
    meter.end_round(1)

    resumed = Meter(later := Usage(), PRICES, {"flops": 100.0})
    later.flops += 30
    resumed.prepared()
    resumed.load(meter.state())
    resumed.begin()
    later.flops += 7
    assert resumed.total().flops == 44
    assert resumed.used_in_round().flops == 7


def test_what_was_made_once_for_all_counts_as_if_each_had_made_it() -> None:
    made = [Usage(flops=12.0, seconds=3.0, device_seconds=6.0), Usage(flops=8.0)]
    two = Meter(Usage(), PRICES, {"flops": 100.0}, ranks=2, reduce=lambda values: [2 * value for value in values])
    one = Meter(Usage(), PRICES, {"flops": 100.0})
    for meter in (one, two):
        meter.prepared(made)
        meter.begin()
        used = meter.total()
        assert used.flops == 20
        assert used.seconds == pytest.approx(3.0, abs=0.5)
        assert used.device_seconds == pytest.approx(6.0, abs=0.5)


def test_labels_that_the_start_holds_do_not_count_again() -> None:
    prices = Prices(device_hour=0.0, human_label=0.5, judge_mtoken=0.0)
    start = {"labels": 90.0, "money": 45.0}
    for bought, stopped_by in ((True, None), (False, "labels")):
        meter = Meter(usage := Usage(), prices, {"labels": 100.0, "money": 60.0}, start=start, bought=bought)
        usage.labels = usage.human_labels = 20.0
        assert meter.lacking() == stopped_by
        assert meter.total().labels == 20  # the run's own are told all the same
        assert meter.fraction() == (0.0 if bought else 2.0)


def test_an_iteration_that_cannot_be_divided_is_not_begun_for_less(tmp_path: Path) -> None:
    found, config = subject("grpo")
    world = World(found, config)
    size = {"prompts_per_iteration": 2, "samples_per_prompt": 4, "minibatches": 4, "epochs": 1, "iterations": 3}
    world.algorithm.config = dataclasses.replace(world.config, **size)
    world.engine.usage = world.backbone.usage
    meter = Meter(world.backbone.usage, PRICES, {"prompts": 3.5})
    stream = RolloutStream(
        world.algorithm, world.engine, TokenReward(), PROMPTS, response_tokens=TOKENS, seed=3, meter=meter
    )
    assert stream.least == 2  # one prompt's four responses are two minibatches
    strategy = Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu))
    quiet()
    trainer = strategy.trainer(epochs=3, root=tmp_path, callbacks=[BudgetKeeper(meter, stream)], shared=True)
    trainer.fit(world.algorithm, OnPolicyData(stream))
    assert meter.stopped_by == "prompts"
    assert meter.last.prompts == 3


def test_responses_that_grow_do_not_carry_an_iteration_beyond_a_minibatch(tmp_path: Path) -> None:
    found, config = subject("grpo")
    world = World(found, config)
    world.algorithm.config = dataclasses.replace(world.config, minibatches=MINIBATCHES, epochs=1, iterations=3)
    world.engine.usage = world.backbone.usage
    rows = len(PROMPTS) * world.config.samples_per_prompt
    short, limit = rows, 2.5 * rows  # one token a response in the first iteration: by the mean the second fits
    meter = Meter(world.backbone.usage, PRICES, {"generated_tokens": limit})
    stream = RolloutStream(
        world.algorithm, world.engine, TokenReward(), PROMPTS, response_tokens=TOKENS, seed=3, meter=meter
    )
    meter.begin()
    world.backbone.usage.generated_tokens += short
    meter.end_round(MINIBATCHES)
    assert meter.lacking(meter.part.scaled(MINIBATCHES) if meter.part else None) is None
    stream.collect(1)
    used = meter.total().generated_tokens
    assert used > short
    assert used - limit <= rows / MINIBATCHES * TOKENS
