"""The stages of one trial, each a store entry: asked for by what it depends on, computed once.

questions → sft → candidates → preferences → reward_model → policy → evaluation (DESIGN's six steps).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rft.budget import Budget
from rft.config import CandidatesConfig, EvaluationConfig, SFTConfig, build, to_config
from rft.config.build import target_class
from rft.config.plugins import class_digest
from rft.errors import UserError
from rft.store import Entry, Store
from rft.store.assets import fetch
from rft.study.diverged import diverges_once
from rft.study.parts import part_class, plain, settings_of, version_of
from rft.study.replicate import with_own_draws
from rft.study.room import require_room
from rft.study.start import refuse_start, start_stage

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from transformers import PreTrainedTokenizerBase

    from rft.algorithms.base import Algorithm
    from rft.strategy import Strategy
    from rft.tasks.base import Task

VERSIONS = {
    "sft": 2,
    "candidates": 2,
    "revisions": 1,
    "preferences": 2,
    "reward_model": 2,
    "policy": 2,
    "evaluation": 2,
}
STAGES = ("questions", "sft", "candidates", "revisions", "preferences", "reward_model", "policy", "evaluation")


class Pipeline:
    """Computes, or finds, the stages of one configuration.

    Args:
        cfg: a checked ``RunConfig``.
        store: where results are kept.
        folder: the trial's folder, for checkpoints.
        logger: gives the trial's tracker, made when a policy is about to be trained or evaluated.
    """

    def __init__(
        self, cfg: DictConfig, store: Store, folder: Path, logger: Callable[[], Logger | None] = lambda: None
    ) -> None:
        self.cfg, self.store, self.folder, self.make_logger = with_own_draws(cfg), store, folder, logger
        self.done: dict[str, dict[str, Any]] = {}

    @cached_property
    def strategy(self) -> Strategy:
        """Devices and precision; sets this process's threads."""
        from rft.study.training import use_threads

        strategy: Strategy = build(self.cfg.strategy)
        use_threads(strategy)
        return strategy

    @cached_property
    def task(self) -> Task:
        """What the questions are about and what counts as good."""
        part_class("task", self.cfg.task)
        task: Task = build(self.cfg.task, store=self.store)
        return task

    @cached_property
    def model(self) -> Entry:
        """The pretrained model."""
        code = class_digest(target_class(self.cfg.model), str(self.cfg.model["_target_"]))
        store = self.store if code is None else self.store.with_code("model", code)
        entry: Entry = build(self.cfg.model, store=store).prepare()
        return entry

    @cached_property
    def lora(self) -> Any:
        """Adapter settings of all roles."""
        return to_config(self.cfg.model).lora

    @cached_property
    def algorithm_class(self) -> type[Algorithm]:
        """The algorithm under comparison."""
        found: type[Algorithm] = part_class("algorithm", self.cfg.algorithm)
        return found

    @property
    def response_tokens(self) -> int:
        """Longest response, in tokens."""
        return int(self.cfg.task.response_tokens)

    def _part(self, group: str) -> tuple[Any, dict[str, Any]]:
        """The class of a group's option and what the addresses of its stages take from it."""
        found = part_class(group, self.cfg[group])
        return found, settings_of(self.cfg[group]) | version_of(found)

    def _stage(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Entry | str],
        make: Callable[[Path], Mapping[str, Any] | None],
    ) -> Entry:
        keys = {k: v.key if isinstance(v, Entry) else v for k, v in inputs.items()}
        entry = self.store.get_or_compute(name, version=VERSIONS[name], config=config, inputs=keys, build=make)
        return self._note(entry)

    def _note(self, entry: Entry) -> Entry:
        self.done[entry.stage] = {
            "key": entry.key,
            "digest": entry.digest,
            "seconds": entry.cost["seconds"],
            "computed": entry.key in self.store.computed,
        }
        return entry

    @cached_property
    def gold(self) -> Entry:
        """The hidden gold reward."""
        return self._note(self.task.gold_entry())

    @cached_property
    def questions(self) -> Entry:
        """Step 1: prompt sets, and demonstrations for the start policy."""

        def load_tokenizer() -> PreTrainedTokenizerBase:
            from transformers import AutoTokenizer

            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.model.path)
            return tokenizer

        entry = self.task.questions_entry(load_tokenizer, self.model.key)
        require_room(entry, self.model, self.response_tokens)
        return self._note(entry)

    @cached_property
    def sft(self) -> Entry:
        """The start policy, also the KL reference: merged weights in a model folder."""
        config: SFTConfig = OmegaConf.to_object(self.cfg.sft)  # type: ignore[assignment]
        address = {
            "sft": plain(self.cfg.sft),
            "lora": asdict(self.lora),
            "strategy": self.strategy.identity(distributed=False),
        }

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_sft

            return make_sft(config, self.lora, self.model, self.questions, self.strategy, out)

        return self._stage("sft", address, {"model": self.model, "questions": self.questions}, make)

    @cached_property
    def candidates(self) -> Entry:
        """Step 2: several answers each, and the pairs to compare."""
        config: CandidatesConfig = OmegaConf.to_object(self.cfg.candidates)  # type: ignore[assignment]
        address = plain(self.cfg.candidates) | {
            "response_tokens": self.response_tokens,
            "strategy": self.strategy.identity(distributed=False),
        }

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_candidates

            return make_candidates(config, self.response_tokens, self.sft, self.questions, self.strategy, out)

        return self._stage("candidates", address, {"sft": self.sft, "questions": self.questions}, make)

    @cached_property
    def revisions(self) -> Entry | None:
        """The policy that training begins from, if `start` makes another than the SFT policy."""
        asked = start_stage(self)
        return None if asked is None else self._stage("revisions", *asked)

    @cached_property
    def annotators(self) -> Entry:
        """The simulated annotators, fitted to the real human ratings."""
        from rft.feedback.annotators import annotators_entry

        return self._note(annotators_entry(self.task))

    def judge_inputs(self) -> dict[str, Entry]:
        """What the judge is made from."""
        needs = part_class("judge", self.cfg.judge).needs
        found = {"model": self._judge_model()} if "model" in needs else {}
        return found | ({"gold": self.gold, "annotators": self.annotators} if "annotators" in needs else {})

    def _judge_model(self) -> Entry:
        """The model that a judge names as its own by `asset` or `path`; else the study's."""
        own = {name: self.cfg.judge.get(name) for name in ("asset", "path", "revision")}
        if own["asset"] is None and own["path"] is None:
            return self.model
        from rft.models.pretrained import Config, Pretrained

        return Pretrained(Config(**own), self.store, key="judge").prepare()

    def judge_address(self) -> dict[str, Any]:
        """What the address of a stage that asks the judge takes from it."""
        judge, settings = self._part("judge")
        strategy = {"strategy": self.strategy.identity(distributed=False)} if "model" in judge.needs else {}
        return {"judge": settings} | strategy

    @cached_property
    def preferences(self) -> Entry:
        """Step 3: labels on the pairs, by the feedback source."""
        source, settings = self._part("feedback")
        address = {"feedback": settings}
        # The gold labels for simulated annotators; for a judge it only measures how far the labels agree with it.
        inputs: dict[str, Entry] = {"candidates": self.candidates, "gold": self.gold}
        if "judge" in source.needs:
            inputs |= self.judge_inputs()
            address |= self.judge_address()
        if "annotators" in source.needs:
            inputs["annotators"] = self.annotators

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_labels

            return make_labels(self.cfg.feedback, self.cfg.judge, self.task, inputs, self.strategy, out)

        return self._stage("preferences", address, inputs, make)

    @property
    def reward_inputs(self) -> dict[str, Entry]:
        """What the reward source is made from and measured on."""
        return {
            "sft": self.sft,
            "candidates": self.candidates,
            "preferences": self.preferences,
            "ratings": fetch(self.store, "human-ratings"),
            **{name: fetch(self.store, name) for name in part_class("reward", self.cfg.reward).assets},
        }

    @cached_property
    def reward_model(self) -> Entry:
        """Step 4: the reward source, with its agreement with labels and humans it never saw.

        A source that learns from no labels, a rule, depends on them all the same: they measure it.
        """
        address = {
            "reward": self._part("reward")[1],
            "lora": asdict(self.lora),
            "strategy": self.strategy.identity(distributed=False),
        }
        inputs = self.reward_inputs

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_reward_model

            return make_reward_model(self.cfg.reward, self.lora, inputs, self.strategy, out)

        return self._stage("reward_model", address, inputs, make)

    @cached_property
    def budget(self) -> Budget:
        """What training may use, and prices."""
        budget: Budget = build(self.cfg.budget)
        return budget

    @property
    def charged(self) -> list[Entry]:
        """The shared stages that the policy depends on."""
        found, inputs = [self.sft], self._policy_inputs()
        labelled = bool({"preferences", "reward_model"} & set(inputs))
        found += [self.candidates] if labelled or "revisions" in inputs else []
        found += [inputs["revisions"]] if "revisions" in inputs else []
        found += [self.preferences] if labelled else []
        return [*found, self.reward_model] if "reward_model" in inputs else found

    def _policy_inputs(self) -> dict[str, Entry]:
        inputs = {"sft": self.sft}
        kind, needs = self.algorithm_class.data_kind, self.algorithm_class.needs
        if kind == "on_policy":
            inputs["questions"] = self.questions
        if kind in ("preference", "unpaired"):
            inputs |= {"candidates": self.candidates, "preferences": self.preferences}
        if {"reward", "value"} & needs:
            inputs["reward_model"] = self.reward_model
        return inputs if self.revisions is None else inputs | {"revisions": self.revisions}

    @cached_property
    def policy(self) -> Entry | None:
        """Step 5: the algorithm under comparison; None in a DDP child, which only helps its parent to train."""
        inputs = self._policy_inputs()
        trains = self.algorithm_class.data_kind != "none"
        address: dict[str, Any] = {"algorithm": settings_of(self.cfg.algorithm), "lora": asdict(self.lora)}
        address["strategy"] = self.strategy.identity(distributed=trains)
        if trains:
            address |= {"seed": int(self.cfg.seed), "response_tokens": self.response_tokens} | self.budget.address()
        if trains and self.cfg.evaluation.checkpoints:
            address["snapshots"] = int(self.cfg.evaluation.checkpoints)
        key = Store.key("policy", VERSIONS["policy"], address, {k: v.key for k, v in inputs.items()})
        checkpoints = self.folder / "checkpoints" / key[:16]

        @diverges_once(checkpoints)
        def make(out: Path | None) -> Mapping[str, Any]:
            from rft.study.charge import Charge
            from rft.study.training import train_policy

            return train_policy(
                self.algorithm_class,
                to_config(self.cfg.algorithm),
                self.cfg.reward,
                self.lora,
                inputs,
                self.strategy,
                response_tokens=self.response_tokens,
                seed=int(self.cfg.seed) if trains else 0,
                charge=Charge.of(self.budget, self.charged),
                snapshots=int(self.cfg.evaluation.checkpoints),
                checkpoints=checkpoints,
                logger=self.make_logger() if out is not None else None,
                out=out,
            )

        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            make(None)
            return None
        entry = self._stage("policy", address, inputs, make)
        # They are there to go on from; kept, they would stand in for training after the entry is gone.
        shutil.rmtree(checkpoints, ignore_errors=True)
        return entry

    @cached_property
    def evaluation(self) -> Entry:
        """Step 6: the final test on unseen questions."""
        config: EvaluationConfig = OmegaConf.to_object(self.cfg.evaluation)  # type: ignore[assignment]
        policy = self.policy
        assert policy is not None
        inputs = {
            "policy": policy,
            "sft": self.sft,
            "reward_model": self.reward_model,
            "gold": self.gold,
            "questions": self.questions,
        }
        address = plain(self.cfg.evaluation) | {
            "trial_seed": int(self.cfg.seed),
            "lora": asdict(self.lora),
            "response_tokens": self.response_tokens,
            "strategy": self.strategy.identity(distributed=False),
        }

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_evaluation

            self.make_logger()
            return make_evaluation(
                config,
                self.cfg.reward,
                self.lora,
                self.task,
                inputs,
                self.strategy,
                response_tokens=self.response_tokens,
                seed=int(self.cfg.seed),
                out=out,
                best_of=self.algorithm_class.best_of(to_config(self.cfg.algorithm)),
            )

        return self._stage("evaluation", address, inputs, make)

    def run(self, until: str) -> Entry | None:
        """Compute the stages up to and including one; returns its entry (None in a DDP child).

        Raises:
            UserError: for what the user can mend, naming it.
        """
        if until not in STAGES:
            raise UserError(f"until={until}: no such stage; valid are {', '.join(STAGES)}")
        refuse_start(self.cfg, until)
        _ = (
            self.algorithm_class,
            self.strategy,
            self.task,
        )  # whatever is wrong with them is said before anything is fetched
        entry: Entry | None = None
        for name in STAGES[: STAGES.index(until) + 1]:
            found = getattr(self, name)
            if found is None and name != "revisions":
                return None
            entry = found or entry
        return entry
