"""Builds and trains what the stages need: the start policy, the reward model, the policy under comparison."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from rft.algorithms.base import Algorithm
from rft.budget import USAGE, Meter, Usage
from rft.budget.stages import usage_of
from rft.callbacks.curves import Curves
from rft.callbacks.distributions import Distributions
from rft.callbacks.training import BudgetKeeper, History, KeepLast, Snapshots, TrainingBar
from rft.checkpoint import last_good
from rft.config import OnPolicyConfig, PreferenceConfig, build
from rft.config.build import target_class
from rft.data.draws import seed_process
from rft.data.offline import (
    OfflineData,
    OfflineStream,
    load_answers,
    load_comparisons,
    mismatched,
    read_table,
    samples_per_prompt,
    to_pairs,
    to_unpaired,
)
from rft.data.on_policy import OnPolicyData, RolloutStream
from rft.feedback.base import Feedback
from rft.models.backbone import Backbone, Role
from rft.models.module import LARGEST_NORM, StepOfEachBatch
from rft.models.pretrained import LoraConfig, load_folder
from rft.rewards.base import Reward, Standardised
from rft.rollout import RolloutEngine
from rft.runtime import asked_threads, cores
from rft.store import Entry
from rft.store.cost import COST
from rft.store.names import DISTRIBUTIONS_FILE, HISTORY_FILE
from rft.store.whole import clear_unfinished
from rft.strategy import Strategy
from rft.study.charge import Charge, refuse_spent
from rft.study.fixed_answers import MISMATCHED, REFERENCE, read_reference, with_kept_trunk
from rft.types import PreferenceBatch, UnpairedBatch

if TYPE_CHECKING:
    from rft.callbacks.trackers.base import Tracker


@dataclass(frozen=True, slots=True)
class Teachers:
    """Who is asked about fresh responses while a policy is trained."""

    reward: Mapping[str, Any] = field(default_factory=dict)
    """What the constructor of the reward source is given by its `needs`."""
    feedback: Feedback | None = None
    """The source of labels, for an algorithm that needs it."""


def quiet() -> None:
    """Lightning's and torch's chatter off; their warnings about choices that are made here on purpose too."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*epoch parameter in `scheduler.step.*")


def use_threads(strategy: Strategy) -> None:
    """Set this process's CPU threads: the trial's share, RFT_THREADS, else all cores, split over its processes.

    ``strategy.threads`` is of one process and comes second.
    """
    asked = asked_threads()
    processes = 1 if strategy.on_gpu else strategy.world_size
    own = strategy.config.threads if not asked and strategy.config.threads else (asked or cores()) // processes
    torch.set_num_threads(max(1, own))


def make_backbone(
    folder: Path,
    strategy: Strategy,
    lora: LoraConfig,
    roles: Collection[Role],
    trained: Collection[Role] = (),
    seed: int = 0,
    *,
    critic_on_policy: bool = False,
    reference: bool = True,
) -> tuple[Backbone, RolloutEngine]:
    """A backbone over the model in a folder, and an engine that shares its memory while it rests.

    Without a reference others may write to that memory: the engine must be given a role's weights first.
    """
    model, tokenizer = load_folder(folder, strategy.dtype)
    model.to(strategy.device)  # type: ignore[arg-type]
    engine = RolloutEngine(model, int(tokenizer.eos_token_id), int(tokenizer.pad_token_id))
    shares = {"critic_on_policy": critic_on_policy, "reference": reference}
    backbone = Backbone(model, tokenizer, lora, roles, trained, seed, **shares)
    engine.usage = backbone.usage
    if not reference:
        engine.rest()
    return backbone.to(strategy.device), engine


def fit_shared(module: Any, batches: Any, total: int, name: str, strategy: Strategy) -> None:
    """Train the module of a shared stage in one process.

    One that makes its own steps is told how large a microbatch may be; others are clipped as that clips itself.

    Raises:
        TrainingDiverged: through the module, if its loss is not finite.
    """
    from torch.utils.data import DataLoader

    quiet()
    own = isinstance(module, StepOfEachBatch)
    if own:
        kept, all_weights = module.backbone.kept_of_token, not module.backbone.lora.enabled
        module.microbatch_tokens = strategy.shared_microbatch_tokens(kept, all_weights=all_weights)
    watch = [TrainingBar(name, total)]
    clip = 0.0 if own else LARGEST_NORM
    trainer = strategy.trainer(epochs=1, root=Path.cwd(), callbacks=watch, shared=True, clip=clip)
    trainer.fit(module, DataLoader(batches, batch_size=None, num_workers=0))
    module.backbone.to(strategy.device)


def load_reward(folder: Path, node: DictConfig, backbone: Backbone, runtime: Mapping[str, Any]) -> Standardised:
    """The reward source that the stage ``reward_model`` left in a folder; `runtime` is what it `needs`."""
    return Standardised.load(build(node, backbone=backbone, **runtime), folder)


def roles_of(algorithm: type[Algorithm], reward: type[Reward]) -> tuple[list[Role], list[Role]]:
    """The roles that an algorithm's backbone has, and those that are trained."""
    trained = [Role.policy] + ([Role.critic] if "value" in algorithm.needs else [])
    frozen = [Role.reward] if {"reward", "value"} & algorithm.needs and "role" in reward.needs else []
    return trained + frozen, trained


def make_data(
    algorithm: Algorithm,
    engine: RolloutEngine,
    reward: Standardised | None,
    inputs: dict[str, Entry],
    strategy: Strategy,
    *,
    response_tokens: int,
    seed: int,
    meter: Meter,
    label: Usage,
    feedback: Feedback | None = None,
) -> OnPolicyData | OfflineData:
    """The data module that an algorithm's ``data_kind`` asks for; ``label`` is what one of a pair cost."""
    rank = int(os.environ.get("LOCAL_RANK", "0")) if strategy.world_size > 1 else 0
    share: dict[str, Any] = {"rank": rank, "world": strategy.world_size, "meter": meter}
    share["accumulate"] = strategy.config.accumulate
    kept, all_weights = algorithm.backbone.kept_of_token, not algorithm.backbone.lora.enabled
    share["microbatch_tokens"] = strategy.microbatch_tokens(kept, all_weights=all_weights)
    config = algorithm.config
    if isinstance(config, OnPolicyConfig):
        questions = read_table(inputs["questions"].path / "questions.parquet")
        prompts = [q["token_ids"] for q in questions if q["split"] == "train"]
        share |= {"response_tokens": response_tokens, "seed": seed, "feedback": feedback}
        return OnPolicyData(RolloutStream(algorithm, engine, reward, prompts, **share))
    assert isinstance(config, PreferenceConfig)
    data = labelled(algorithm, inputs)
    rows = config.pairs_per_step * (2 if isinstance(data, UnpairedBatch) else 1)
    return OfflineData(
        OfflineStream(algorithm, data, rows_per_step=rows, epochs=config.epochs, seed=seed, label=label, **share)
    )


def labelled(algorithm: Algorithm, inputs: Mapping[str, Entry]) -> PreferenceBatch | UnpairedBatch:
    """The training comparisons as pairs or, for an algorithm of unpaired feedback, as single responses."""
    backbone, candidates = algorithm.backbone, inputs["candidates"].path
    comparisons = load_comparisons(candidates, inputs["preferences"].path, heldout=False)
    fixed = load_answers(candidates, backbone.pad_id)
    kept = with_kept_trunk(fixed, candidates, backbone.trunk.depth)
    answers, ref = backbone.with_trunk(kept), read_reference(inputs)
    if algorithm.data_kind != "unpaired":
        return to_pairs(comparisons, answers, ref)
    others = backbone.with_trunk(mismatched(fixed, samples_per_prompt(candidates)))
    return to_unpaired(comparisons, answers, others, ref, read_reference(inputs, MISMATCHED))


def going_on(folder: Path, share: float = 1.0) -> Path | None:
    """The checkpoint of a folder to go on from; None to begin anew.

    One that is further along than the `share` of training that is asked for is of no use.
    """

    def unfit(checkpoint: dict[str, Any]) -> str | None:
        states = checkpoint["callbacks"]
        if share < 1 and float(states[BudgetKeeper.__qualname__].get("reached", 1.0)) > share:
            return ""
        return Snapshots.fault(states[Snapshots.__qualname__], folder)

    if int(os.environ.get("LOCAL_RANK", "0")) == 0:  # the other ranks of a trial start after it
        clear_unfinished(folder)
    return last_good(folder, unfit)


def fit_policy(
    algorithm: Algorithm,
    data: OnPolicyData | OfflineData,
    watch: list[Any],
    strategy: Strategy,
    title: str,
    checkpoints: Path,
    share: float,
) -> None:
    """Train to a share of the schedule or the budget, from the last checkpoint if there is one."""
    config = algorithm.config
    if isinstance(config, OnPolicyConfig):
        epochs = config.iterations
        batches = epochs * len(data.stream)
    else:
        assert isinstance(data, OfflineData)
        epochs = data.stream.lightning_epochs
        batches = data.stream.steps * data.stream.accumulate
    resume = going_on(checkpoints, share)
    callbacks = [TrainingBar(title, batches), *watch, KeepLast(checkpoints, strategy.config.checkpoint_share)]
    trainer = strategy.trainer(epochs=epochs, root=checkpoints, callbacks=callbacks, accumulate=data.stream.accumulate)
    trainer.fit(algorithm, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)


def begin(
    backbone: Backbone, reward_node: DictConfig, inputs: Mapping[str, Entry], teachers: Teachers
) -> Standardised | None:
    """Set the roles to where training begins; returns the reward source, if the policy has one."""
    if "revisions" in inputs:  # another start; the reference stays the SFT policy
        backbone.load_role(Role.policy, load_file(inputs["revisions"].path / "policy.safetensors"))
    if "reward_model" not in inputs:
        return None
    reward = load_reward(inputs["reward_model"].path, reward_node, backbone, teachers.reward)
    if Role.critic in backbone.trained:
        reward.start_critic()
    return reward


def _rows(history: History, stream: RolloutStream | OfflineStream, curves: Path | None) -> list[Any]:
    """What makes rows of metrics, and before them the distributions that a tracker is told of with each."""
    if history.tracker is not None and isinstance(stream, RolloutStream):
        history.distributions = Distributions(stream, history.tracker.kept.histograms)
    return [*([history.distributions] if history.distributions else []), history, Curves(history, curves)]


def _keep(out: Path, backbone: Backbone, history: History, taken: Snapshots, curves: Path | None) -> None:
    """Write what training made into the entry of the policy, and what only trackers are told beside the `curves`."""
    save_file(backbone.role_state(Role.policy), out / "policy.safetensors")
    (out / HISTORY_FILE).write_text(json.dumps(history.rows, indent=1), encoding="utf-8")
    taken.keep(out)
    if curves is not None and history.distributions is not None:
        history.distributions.write(curves.with_name(DISTRIBUTIONS_FILE))


def train_policy(
    algorithm_class: type[Algorithm],
    config: Any,
    reward_node: DictConfig,
    lora: LoraConfig,
    inputs: dict[str, Entry],
    strategy: Strategy,
    *,
    response_tokens: int,
    seed: int,
    charge: Charge,
    snapshots: int,
    checkpoints: Path,
    tracker: Tracker | None,
    out: Path | None,
    curves: Path | None = None,
    teachers: Teachers | None = None,
) -> dict[str, Any]:
    """Train one arm's policy from the start policy, resuming from the last checkpoint if there is one.

    Writes ``policy.safetensors``, ``history.json`` and the snapshots into `out` (rank 0), the history as it grows to
    `curves` if that is given, and returns the last metrics and what was used.
    """
    quiet()
    seed_process(seed)
    teachers = teachers or Teachers()
    roles, trained = roles_of(algorithm_class, target_class(reward_node))
    shares = {"critic_on_policy": algorithm_class.critic_on_policy(config)}
    backbone, engine = make_backbone(inputs["sft"].path, strategy, lora, roles, trained, seed, **shares)
    reward = begin(backbone, reward_node, inputs, teachers)
    algorithm = algorithm_class(config, backbone)
    kind = algorithm_class.data_kind
    meter = charge.meter(backbone.usage, strategy, offline=kind in ("preference", "unpaired"))
    history, taken = History(meter, tracker), Snapshots(snapshots, meter, checkpoints)
    if kind != "none":
        refuse_spent(meter)
        data = make_data(
            algorithm,
            engine,
            reward,
            inputs,
            strategy,
            response_tokens=response_tokens,
            seed=seed,
            meter=meter,
            label=charge.label,
            feedback=teachers.feedback,
        )
        meter.prepared([usage_of(inputs[name]) for name in (REFERENCE, MISMATCHED) if name in inputs])
        watch = [BudgetKeeper(meter, data.stream, charge.budget.share), taken, *_rows(history, data.stream, curves)]
        title = f"{config.name} seed {seed}"
        fit_policy(algorithm, data, watch, strategy, title, checkpoints, charge.budget.share)
    if out is not None:
        _keep(out, backbone, history, taken, curves)
    used = meter.last
    return (history.rows[-1] if history.rows else {}) | {
        USAGE: used.counted(),
        "stopped_by": meter.stopped_by,
        COST: {"clock": history.clock, "seconds_training": used.seconds, "device_seconds": used.device_seconds},
    }
