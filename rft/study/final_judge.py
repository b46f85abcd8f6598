"""The judge of the final test: not the one that the policy learned from, unless that is asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from rft.config import to_config
from rft.config.options import NOBODY, names_of, option_like, options
from rft.errors import UserError, nearest
from rft.study.answering import opinions, who_answers
from rft.study.judging import JudgePart
from rft.study.parts import part_class, plain

if TYPE_CHECKING:
    from rft.evaluation.judged import JudgedRows
    from rft.store import Entry, Store
    from rft.study.chosen import Chosen

PERMISSION = "same_judge"
"""Of the settings of the evaluation, the one that decides no result."""


def learns_from_judge(cfg: DictConfig) -> bool:
    """Whether the policy learns from a judge: its labels, a reward made of them or of its scores, or its revisions."""
    algorithm, reward = part_class("algorithm", cfg.algorithm), part_class("reward", cfg.reward).needs
    labels = "judge" in part_class("feedback", cfg.feedback).needs
    asks = {"judge", *(("feedback",) if labels else ())} & algorithm.needs
    by_pairs = labels and algorithm.data_kind in ("preference", "unpaired")
    by_reward = {"reward", "value"} & algorithm.needs and ("judge" in reward or (labels and "labels" in reward))
    starts = "judge" in part_class("start", cfg.start).needs
    return bool(asks or by_pairs or by_reward or starts)


def taught_by(cfg: DictConfig, store: Store | None = None) -> bool:
    """Whether the policy learns from the opinion that tests it; `store` as of `rft.study.answering.who_answers`.

    A reward model that learned from a judge's labels has that judge's opinion, whichever of the two teaches.
    """
    if not learns_from_judge(cfg):
        return False
    ours, theirs = (opinions(cfg, place, store) for place in ("judge", "eval_judge"))
    return any(one.same(other) for one in ours for other in theirs)


def refuse_own_judge(cfg: DictConfig, where: str = "", store: Store | None = None) -> None:
    """Refuse an evaluation judge that compares only, or that the policy learned from, unless that is asked for by name.

    Args:
        cfg: the configuration of a trial.
        where: what stands before what is said.
        store: as of `rft.study.answering.who_answers`.

    Raises:
        UserError: naming the setting and the mend.
    """
    allowed = cfg.evaluation.same_judge
    if cfg.eval_judge is None:
        return
    judge = part_class("eval_judge", cfg.eval_judge)
    if not judge.scores_alone(to_config(cfg.eval_judge)):
        raise UserError(
            f"{where}eval_judge: {judge.__name__} compares answers as it is set and scores none by itself; choose one "
            "that does, such as eval_judge=few_shot"
        )
    there = [option.name for option in options() if option.group == "judge"]
    if allowed is not None and allowed not in there:
        raise UserError(f"{where}evaluation.same_judge={allowed}: no such judge; {nearest(allowed, there)}")
    names = names_of("judge", str(cfg.judge["_target_"]))
    if allowed in names or not taught_by(cfg, store):
        return
    same = who_answers(cfg, "judge", store).same(who_answers(cfg, "eval_judge", store))
    what = "the same judge" if same else "the same opinion, one of the two being trained on labels of the other"
    raise _own_teacher(where, what, option_like("judge", plain(cfg.judge)) or str(cfg.judge["_target_"]))


def _own_teacher(where: str, what: str, name: str) -> UserError:
    return UserError(
        f"{where}eval_judge: the policy learns from {what}, {name}, and its own teacher would test it; "
        f"choose another model, leave it out with eval_judge={NOBODY}, or ask for it by name with "
        f"evaluation.same_judge={name}"
    )


class FinalJudge:
    """What the stage `evaluation` takes from the judge of the final test; nothing without one."""

    def __init__(self, chosen: Chosen) -> None:
        self.cfg, self.store = chosen.cfg, chosen.store
        self.judge = None if chosen.cfg.eval_judge is None else JudgePart(chosen, "eval_judge")

    def address(self) -> dict[str, Any]:
        """The settings of the final test, with those of its judge."""
        own: dict[str, Any] = {name: value for name, value in plain(self.cfg.evaluation).items() if name != PERMISSION}
        return own | ({} if self.judge is None else {"eval_judge": self.judge.settings()})

    def inputs(self) -> dict[str, Entry]:
        """What the judge is made from."""
        return {} if self.judge is None else self.judge.inputs()

    def is_reward(self, reward: Entry | None) -> bool:
        """Whether it is the very reward model that a policy is trained on; None for one that uses none."""
        if self.judge is None or reward is None:
            return False
        return reward.key in {entry.key for entry in self.judge.entries.values()}

    def refuse_reward(self, reward: Entry | None) -> None:
        """Refuse a judge as of `is_reward`, whoever gave its labels, unless it is asked for by name.

        Raises:
            UserError: naming the setting and the mend.
        """
        if not self.is_reward(reward):
            return
        target = str(self.cfg.eval_judge["_target_"])
        if self.cfg.evaluation.same_judge not in names_of("judge", target):
            name = option_like("judge", plain(self.cfg.eval_judge)) or target
            raise _own_teacher("", "that very reward model", name)

    def make(self, inputs: Mapping[str, Entry], reward: Entry | None) -> Callable[[], JudgedRows] | None:
        """What makes the judge, once the answers are about to be scored; `reward` as of `is_reward`."""
        judge = self.judge
        if judge is None:
            return None

        def made() -> JudgedRows:
            from rft.evaluation.judged import JudgedRows

            taught = self.is_reward(reward) or taught_by(self.cfg, self.store)
            return JudgedRows(judge.make(inputs, trial=True), taught=taught)

        return made
