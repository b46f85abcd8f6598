"""What one configuration chooses: its parts, and who is asked about responses. `Pipeline` makes stages of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from rft.config import build, to_config
from rft.config.build import target_class
from rft.config.plugins import class_digest
from rft.store import Entry, Store
from rft.study.judging import JudgePart, make_feedback
from rft.study.parts import part_class, settings_of, version_of
from rft.study.replicate import with_own_draws

if TYPE_CHECKING:
    from rft.algorithms.base import Algorithm
    from rft.callbacks.trackers.base import Tracker
    from rft.strategy import Strategy
    from rft.study.training import Teachers
    from rft.tasks.base import Task


class Chosen:
    """The parts of one configuration, each made when it is first asked for.

    Args:
        cfg: a checked ``RunConfig``.
        store: where results are kept.
        folder: the trial's folder, for checkpoints.
        tracker: gives the trial's tracker, made when a policy is about to be trained or evaluated.
    """

    def __init__(
        self, cfg: DictConfig, store: Store, folder: Path, tracker: Callable[[], Tracker | None] = lambda: None
    ) -> None:
        self.cfg, self.store, self.folder, self.make_tracker = with_own_draws(cfg), store, folder, tracker
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

    @property
    def reads_trunk(self) -> bool:
        """Whether the reward source learns with adapters that leave layers alone."""
        return "role" in part_class("reward", self.cfg.reward).needs and bool(
            self.lora.enabled and self.lora.top_layers
        )

    def _part(self, group: str) -> tuple[Any, dict[str, Any]]:
        """The class of a group's option and what the addresses of its stages take from it."""
        found = part_class(group, self.cfg[group])
        return found, settings_of(self.cfg[group]) | version_of(found)

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
    def annotators(self) -> Entry:
        """The simulated annotators, fitted to the real human ratings."""
        from rft.feedback.annotators import annotators_entry

        return self._note(annotators_entry(self.task))

    @cached_property
    def judge(self) -> JudgePart:
        """Who labels for the feedback source, or scores as the reward source."""
        return JudgePart(self)

    def _asks(self, group: str) -> tuple[dict[str, Any], dict[str, Entry]]:
        """What a stage that asks an option about fresh responses takes from those whom it asks: address, inputs."""
        needs, address, inputs = part_class(group, self.cfg[group]).needs, dict[str, Any](), dict[str, Entry]()
        if "judge" in needs:
            address, inputs = {"judge": self.judge.settings()}, self.judge.inputs()
        if "annotators" in needs:
            inputs |= {"gold": self.gold, "annotators": self.annotators}
        return address, inputs

    def _runtime(self, inputs: Mapping[str, Entry]) -> dict[str, Any]:
        """What the reward source is given by its `needs`."""
        asks = "judge" in part_class("reward", self.cfg.reward).needs
        return {"judge": self.judge.make(inputs, trial=True)} if asks else {}

    def _teachers(self, inputs: Mapping[str, Entry]) -> Teachers:
        """Who is asked about fresh responses in training."""
        from rft.study.training import Teachers

        feedback = None
        if "feedback" in self.algorithm_class.needs:
            feedback = make_feedback(self, inputs, trial=True)
        return Teachers(self._runtime(inputs) if "reward_model" in inputs else {}, feedback)
