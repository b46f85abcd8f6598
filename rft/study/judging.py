"""Who is asked about responses: the judge at a place of the configuration, and the feedback source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rft.config import build, to_config
from rft.feedback.judges.placed import Place
from rft.store.names import VERDICTS_FILE
from rft.study.parts import part_class, plain, settings_of, version_of

if TYPE_CHECKING:
    from rft.feedback.base import Feedback
    from rft.feedback.judges.base import Judge
    from rft.store import Entry
    from rft.study.chosen import Chosen


class JudgePart:
    """What stages take from a judge: its address, its inputs, and the judge itself.

    Args:
        chosen: the parts of one configuration.
        place: where the judge stands: `judge`, which teaches, or `eval_judge`, which tests.
    """

    def __init__(self, chosen: Chosen, place: str = "judge") -> None:
        self.chosen, self.place, self.node = chosen, place, chosen.cfg[place]
        self.found = part_class(place, self.node)
        self.stands = Place(place, str(chosen.cfg.arm))

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Store entries that its settings name."""
        found: dict[str, Entry] = self.found.entries(to_config(self.node), self.chosen.store)
        return found

    def inputs(self) -> dict[str, Entry]:
        """What it is made from."""
        needs, found = self.found.needs, dict(self.entries)
        if "model" in needs:
            found["model"] = self._model()
        if "annotators" in needs:
            found |= {"gold": self.chosen.gold, "annotators": self.chosen.annotators}
        return found

    def _model(self) -> Entry:
        """The model that it names as its own by `asset` or `path`; else the study's."""
        own = {name: self.node.get(name) for name in ("asset", "path", "revision")}
        if own["asset"] is None and own["path"] is None:
            return self.chosen.model
        from rft.models.pretrained import Config, Pretrained

        return Pretrained(Config(**own), self.chosen.store, key=self.place).prepare()

    def settings(self) -> dict[str, Any]:
        """Its settings with its class, but for those that change no answer."""
        settings = settings_of(self.node) | version_of(self.found)
        left_out = self.found.located | self.found.charged
        return {name: value for name, value in settings.items() if name not in left_out}

    def charges(self) -> dict[str, Any]:
        """Its settings that say what an answer costs, those that are set."""
        return {
            name: value for name, value in plain(self.node).items() if name in self.found.charged and value is not None
        }

    def check_ready(self) -> None:
        """Refuse a judge that could not be asked.

        Raises:
            UserError: as the judge says.
        """
        with self.stands.told():
            self.found.check_ready(to_config(self.node))

    def address(self) -> dict[str, Any]:
        """What the address of a stage that asks it takes from it."""
        computes = bool({"model", "entries"} & self.found.needs)
        strategy = {"strategy": self.chosen.strategy.identity(distributed=False)} if computes else {}
        return {"judge": self.settings()} | strategy

    def make(self, inputs: Mapping[str, Entry], *, trial: bool = False) -> Judge:
        """The judge, with what it needs.

        Args:
            inputs: as `inputs` gives them, among others.
            trial: it is asked in training or evaluation, not in a shared stage: then a model in this process looks for
                no kept answers, as `KeptVerdicts` says.
        """
        from rft.feedback.annotators import load_annotators
        from rft.feedback.judges.base import JUDGE_ENTRY
        from rft.feedback.judges.cache import KeptVerdicts
        from rft.models.pretrained import load_folder

        needs, runtime, strategy = self.found.needs, dict[str, Any](), self.chosen.strategy
        here = bool({"model", "entries"} & needs)
        known: dict[str, Any] = {**version_of(self.found)}
        if "annotators" in needs:
            runtime["gold"] = self.chosen.task.load_gold(inputs["gold"].path)
            runtime["annotators"] = load_annotators(inputs["annotators"].path)
        if "entries" in needs:
            own = {name: entry for name, entry in inputs.items() if name.startswith(JUDGE_ENTRY)}
            runtime |= {"entries": own, "strategy": strategy}
            known |= {"entries": {name: entry.digest for name, entry in own.items()}}
        if "model" in needs:
            model = inputs["model"]
            known["model"] = model.digest
            weights, tokenizer = load_folder(model.path, strategy.dtype)
            weights.to(device=strategy.device)  # type: ignore[call-arg]
            runtime |= {"model": weights, "tokenizer": tokenizer}
        if "verdicts" in needs:
            path = self.chosen.store.root / VERDICTS_FILE
            known |= {"strategy": strategy.identity(distributed=False)} if here else {}
            runtime["verdicts"] = KeptVerdicts(path, known, recall=not (trial and here))
        with self.stands.told():
            judge: Judge = build(self.node, **runtime)
        judge.place = self.stands
        return judge


def make_feedback(chosen: Chosen, inputs: Mapping[str, Entry], *, trial: bool = False) -> Feedback:
    """The feedback source with what it needs; `trial` as of `JudgePart.make`."""
    from rft.feedback.annotators import load_annotators

    needs, runtime = part_class("feedback", chosen.cfg.feedback).needs, dict[str, Any]()
    if "judge" in needs:
        runtime["judge"] = chosen.judge.make(inputs, trial=trial)
    if "annotators" in needs:
        runtime["gold"] = chosen.task.load_gold(inputs["gold"].path)
        runtime["annotators"] = load_annotators(inputs["annotators"].path)
    source: Feedback = build(chosen.cfg.feedback, **runtime)
    return source
