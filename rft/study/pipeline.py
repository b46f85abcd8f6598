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

from omegaconf import OmegaConf

from rft.budget import Budget
from rft.budget.stages import usage_of
from rft.config import CandidatesConfig, EvaluationConfig, SFTConfig, build, to_config
from rft.errors import UserError
from rft.runtime import emptied, uncollected
from rft.store import Entry, Store
from rft.store.assets import fetch
from rft.store.names import CURVES_FILE, SAMPLES_FILE
from rft.study.ahead import made_ahead
from rft.study.chosen import Chosen
from rft.study.diverged import diverges_once
from rft.study.final_judge import FinalJudge, refuse_own_judge
from rft.study.fixed_answers import reference_stages
from rft.study.judging import JudgePart, make_feedback
from rft.study.parts import part_class, plain, require_scoring_judge, require_separate_labels, settings_of
from rft.study.rated import prepare_reward, rated_inputs
from rft.study.room import require_room
from rft.study.start import refuse_start, start_stage
from rft.study.versions import VERSIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


STAGES = ("questions", "sft", "candidates", "revisions", "preferences", "reward_model", "policy", "evaluation")


class Pipeline(Chosen):
    """Computes, or finds, the stages of one configuration."""

    def stage(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Entry | str],
        make: Callable[[Path], Mapping[str, Any] | None],
    ) -> Entry:
        """The entry of a stage, found or made, by its settings and what it is made from."""
        keys = {k: v.key if isinstance(v, Entry) else v for k, v in inputs.items()}
        address = Store.key(name, VERSIONS[name], config, keys)

        def seeded(out: Path) -> Mapping[str, Any] | None:
            from rft.data.draws import seed_process

            seed_process(int(address[:16], 16))
            with emptied():
                return make(out)

        entry = self.store.get_or_compute(name, version=VERSIONS[name], config=config, inputs=keys, build=seeded)
        return self._note(entry)

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

        return self.stage("sft", address, {"model": self.model, "questions": self.questions}, make)

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

            share = self.lora, self.sft, self.questions, self.strategy
            return make_candidates(config, self.response_tokens, *share, out)

        return self.stage("candidates", address, {"sft": self.sft, "questions": self.questions}, make)

    @cached_property
    def revisions(self) -> Entry | None:
        """The policy that training begins from, if `start` makes another than the SFT policy."""
        asked = start_stage(self)
        return None if asked is None else self.stage("revisions", *asked)

    @cached_property
    def preferences(self) -> Entry:
        """Step 3: labels on the pairs, by the feedback source."""
        source, settings = self._part("feedback")
        address = {"feedback": settings}
        # The gold labels for simulated annotators; for a judge it only measures how far the labels agree with it.
        inputs: dict[str, Entry] = {"candidates": self.candidates, "gold": self.gold}
        if "judge" in source.needs:
            inputs |= self.judge.inputs()
            address |= self.judge.address()
        if "annotators" in source.needs:
            inputs["annotators"] = self.annotators

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_labels

            gold = self.task.load_gold(self.gold.path)
            return make_labels(make_feedback(self, inputs), gold, self.candidates.path, out)

        return self.stage("preferences", address, inputs, make)

    @property
    def reward_inputs(self) -> dict[str, Entry]:
        """What the reward source is made from."""
        source = part_class("reward", self.cfg.reward)
        return {
            "sft": self.sft,
            "candidates": self.candidates,
            "preferences": self.preferences,
            **{name: fetch(self.store, name) for name in source.assets},
        }

    @cached_property
    def reward_model(self) -> Entry:
        """Step 4: the reward source, with its agreement with labels and humans it never saw.

        A source that learns from no labels, a rule, depends on them all the same: they measure it.
        """
        asked, asks = self._asks("reward")
        address = asked | {
            "reward": self._part("reward")[1],
            "lora": asdict(self.lora),
            "strategy": self.strategy.identity(distributed=False),
        }
        inputs = self.reward_inputs | rated_inputs(self) | asks

        def make(out: Path) -> Mapping[str, Any]:
            from rft.study.shared import make_reward_model

            return make_reward_model(self.cfg.reward, self.lora, inputs, self.strategy, out, self._runtime(inputs))

        return self.stage("reward_model", address, inputs, make)

    @property
    def _trained_on(self) -> Entry | None:
        """The reward source that the policy is trained on; None if it is trained on none."""
        return self.reward_model if {"reward", "value"} & self.algorithm_class.needs else None

    @property
    def judged(self) -> bool:
        """Whether labels, rewards or the start come from a judge."""
        return any("judge" in part_class(group, self.cfg[group]).needs for group in ("start", "feedback", "reward"))

    def _check_judges(self, until: str) -> None:
        """Refuse a judge that could not be asked, or is not there, before anything is computed for it."""
        if self.judged:
            _ = self.judge.entries
        asking = {"start": "revisions", "feedback": "preferences", "reward": "reward_model"}
        asks = [stage for group, stage in asking.items() if "judge" in part_class(group, self.cfg[group]).needs]
        if any(STAGES.index(stage) <= STAGES.index(until) for stage in asks):
            self.judge.check_ready()
        if self.cfg.eval_judge is not None and until == "evaluation":
            JudgePart(self, "eval_judge").check_ready()

    @cached_property
    def reference(self) -> dict[str, Entry]:
        """What is the same of the fixed answers for all who learn from them, by name. Beside the six steps."""
        return reference_stages(self)

    @cached_property
    def audit(self) -> Entry:
        """What the judge is worth. Beside the six steps: nothing depends on it."""
        from rft.study.auditing import plan_audit

        planned = plan_audit(self)
        return self.stage("audit", planned.address, planned.inputs, planned.make)

    @cached_property
    def budget(self) -> Budget:
        """What training may use, and prices."""
        budget: Budget = build(self.cfg.budget)
        return budget

    @property
    def charged(self) -> list[Entry]:
        """The shared stages that the policy depends on."""
        found, inputs = [self.sft], self.policy_inputs()
        labelled = bool({"preferences", "reward_model"} & set(inputs))
        found += [self.candidates] if labelled or "revisions" in inputs else []
        found += [inputs["revisions"]] if "revisions" in inputs else []
        found += [self.preferences] if labelled else []
        return [*found, self.reward_model] if "reward_model" in inputs else found

    def _policy_address(self) -> dict[str, Any]:
        """What the policy's address takes from those who are asked about fresh responses."""
        needs, found = self.algorithm_class.needs, dict[str, Any]()
        if {"reward", "value"} & needs:
            found |= self._asks("reward")[0]
        if "feedback" in needs:
            found |= {"feedback": self._part("feedback")[1]} | self._asks("feedback")[0]
        # What fresh verdicts cost may decide where training ends.
        charges = self.judge.charges() if "judge" in found and "money" in self.budget.limits else {}
        if "flops" in self.budget.limits and (used := self._judge_flops(asked="judge" in found)):
            charges |= used
        return found | ({"charges": charges} if charges else {})

    def _judge_flops(self, *, asked: bool) -> dict[str, Any]:
        """What a judge in this process does to where a limit on operations ends training; nothing if there is none."""
        if not self.judged or "model" not in self.judge.found.needs:
            return {}
        asking = {"revisions": "start", "preferences": "feedback", "reward_model": "reward"}
        asks = {stage for stage, group in asking.items() if "judge" in part_class(group, self.cfg[group]).needs}
        charged = [entry for entry in self.charged if entry.stage in asks] if self.budget.full else []
        shared = sum(usage_of(entry).flops for entry in charged)
        return {"judge_flops": {"shared": shared, "fresh": asked}} if shared or asked else {}

    def policy_inputs(self) -> dict[str, Entry]:
        """What the policy is made from, by the names in its entry."""
        inputs = {"sft": self.sft}
        kind, needs = self.algorithm_class.data_kind, self.algorithm_class.needs
        if kind == "on_policy":
            inputs["questions"] = self.questions
        if kind in ("preference", "unpaired"):
            inputs |= {"candidates": self.candidates, "preferences": self.preferences} | self.reference
        if {"reward", "value"} & needs:
            inputs |= {"reward_model": self.reward_model} | self._asks("reward")[1]
        if "feedback" in needs:
            inputs |= self._asks("feedback")[1]
        return inputs if self.revisions is None else inputs | {"revisions": self.revisions}

    @cached_property
    def policy(self) -> Entry | None:
        """Step 5: the algorithm under comparison; None in a DDP child, which only helps its parent to train."""
        inputs = self.policy_inputs()
        trains = self.algorithm_class.data_kind != "none"
        address: dict[str, Any] = {"algorithm": settings_of(self.cfg.algorithm), "lora": asdict(self.lora)}
        address |= {"strategy": self.strategy.identity(distributed=trains)} | self._policy_address()
        if trains:
            address |= {"seed": int(self.cfg.seed), "response_tokens": self.response_tokens} | self.budget.address()
        if trains and self.cfg.evaluation.checkpoints:
            address["snapshots"] = int(self.cfg.evaluation.checkpoints)
        key = Store.key("policy", VERSIONS["policy"], address, {k: v.key for k, v in inputs.items()})
        # Those of the whole training: a run that pauses leaves them to one that goes on.
        checkpoints = self.folder / "checkpoints" / key[:16]
        pauses = trains and self.budget.share < 1
        if pauses:
            address["share"] = self.budget.share

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
                tracker=self.make_tracker() if out is not None else None,
                out=out,
                curves=self.folder / CURVES_FILE if out is not None else None,
                teachers=self._teachers(inputs),
            )

        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            make(None)
            return None
        entry = self.stage("policy", address, inputs, make)
        # They are there to go on from; kept, they would stand in for training after the entry is gone.
        if not pauses:
            shutil.rmtree(checkpoints, ignore_errors=True)
        return entry

    @cached_property
    def evaluation(self) -> Entry:
        """Step 6: the final test on unseen questions."""
        config: EvaluationConfig = OmegaConf.to_object(self.cfg.evaluation)  # type: ignore[assignment]
        policy = self.policy
        assert policy is not None
        asked, asks = self._asks("reward")
        inputs = asks | {
            "policy": policy,
            "sft": self.sft,
            "reward_model": self.reward_model,
            "gold": self.gold,
            "questions": self.questions,
        }
        judge = FinalJudge(self)
        address = (
            judge.address()
            | asked
            | {
                "trial_seed": int(self.cfg.seed),
                "lora": asdict(self.lora),
                "response_tokens": self.response_tokens,
                "strategy": self.strategy.identity(distributed=False),
            }
        )
        judges = judge.inputs()

        def make(out: Path) -> Mapping[str, Any]:
            from rft.evaluation.samples import Samples
            from rft.study.shared import make_evaluation

            tracker = self.make_tracker()
            shown = 0 if tracker is None else tracker.kept.samples
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
                runtime=self._runtime(inputs),
                best_of=self.algorithm_class.best_of(to_config(self.cfg.algorithm)),
                judge=judge.make(judges, self._trained_on),
                samples=Samples(shown, self.folder / SAMPLES_FILE) if shown else None,
            )

        return self.stage("evaluation", address, inputs | {f"eval_{name}": one for name, one in judges.items()}, make)

    def run(self, until: str) -> Entry | None:
        """Compute the stages up to and including one; returns its entry (None in a DDP child).

        Raises:
            UserError: for what the user can mend, naming it.
        """
        if until not in STAGES:
            raise UserError(f"until={until}: no such stage; valid are {', '.join(STAGES)}")
        # Whatever is wrong with them is said before anything is fetched.
        refuse_start(self.cfg, until)
        require_scoring_judge(self.cfg)
        require_separate_labels(self.cfg)
        with uncollected():
            _ = self.algorithm_class  # which imports torch and Lightning, where nothing has before
        if STAGES.index(until) < STAGES.index("preferences"):
            with made_ahead(lambda: self.task, lambda: self.gold):  # before the first product starts threads
                return self._run(until)
        return self._run(until)

    def _run(self, until: str) -> Entry | None:
        _ = (self.strategy, self.task)
        refuse_own_judge(self.cfg, store=self.store)
        self._check_judges(until)
        entry: Entry | None = None
        for name in STAGES[: STAGES.index(until) + 1]:
            if name == "preferences" and until != name:
                prepare_reward(self)
            found = getattr(self, name)
            if found is None and name != "revisions":
                return None
            if name == "reward_model":
                FinalJudge(self).refuse_reward(self._trained_on)
            if name == "reward_model" and self.cfg.audit.pairs and self.judged:
                _ = self.audit
            entry = found or entry
        return entry
