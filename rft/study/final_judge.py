"""The judge of the final test: not the one that the policy learned from, unless that is asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omegaconf import DictConfig

from rft.config import to_config
from rft.config.options import NOBODY, names_of, options
from rft.errors import UserError, nearest
from rft.study.judging import JudgePart
from rft.study.parts import part_class, plain

if TYPE_CHECKING:
    from rft.evaluation.judged import JudgedRows
    from rft.store import Entry
    from rft.study.chosen import Chosen

PERMISSION = "same_judge"
"""Of the settings of the evaluation, the one that decides no result."""
HERE = ("localhost", "127.0.0.1", "::1")


def learns_from_judge(cfg: DictConfig) -> bool:
    """Whether the policy learns from a judge: its labels, a reward made of them or of its scores, or its revisions."""
    algorithm, reward = part_class("algorithm", cfg.algorithm), part_class("reward", cfg.reward).needs
    labels = "judge" in part_class("feedback", cfg.feedback).needs
    asks = {"judge", *(("feedback",) if labels else ())} & algorithm.needs
    by_pairs = labels and algorithm.data_kind in ("preference", "unpaired")
    by_reward = {"reward", "value"} & algorithm.needs and ("judge" in reward or (labels and "labels" in reward))
    starts = "judge" in part_class("start", cfg.start).needs
    return bool(asks or by_pairs or by_reward or starts)


def who_answers(cfg: DictConfig, place: str) -> tuple[str, ...]:
    """The model behind the judge at a place of the configuration. Two of one model are one judge, however they ask.

    It is what the judge's settings name: an endpoint (`base_url`) and the `model` there, an `asset`, a `path` or an
    `entry` of the store; if they name none, the study's model for a judge that needs a model, else the judge's class.
    """
    node = cfg[place]
    model, where = node.get("model"), node.get("base_url")
    if isinstance(model, str):
        return ("model", model, _endpoint(str(where)) if where else "")
    if named := _weights(node):
        return named
    if "model" in part_class(place, node).needs:
        return _weights(cfg.model) or ("study", repr(sorted(plain(cfg.model).items(), key=lambda one: one[0])))
    return ("class", str(node["_target_"]))


def _weights(node: DictConfig) -> tuple[str, ...]:
    """The asset, the entry of the store or the path that a node names; empty if none."""
    for key in ("asset", "entry"):
        if node.get(key):
            return (key, str(node[key]))
    if not node.get("path"):
        return ()
    folder = Path(str(node.path)).expanduser()
    return ("path", str(folder.resolve()) if folder.is_dir() else str(node.path))


def _endpoint(address: str) -> str:
    """An endpoint's address in one spelling."""
    found = urlsplit(address)
    host = "localhost" if found.hostname in HERE else found.hostname or ""
    return f"{host}:{found.port or ''}{found.path.rstrip('/')}"


def taught_by(cfg: DictConfig) -> bool:
    """Whether the policy learns from the judge that tests it."""
    return learns_from_judge(cfg) and who_answers(cfg, "judge") == who_answers(cfg, "eval_judge")


def refuse_own_judge(cfg: DictConfig, where: str = "") -> None:
    """Refuse an evaluation judge that compares only, or that the policy learned from, unless that is asked for by name.

    Args:
        cfg: the configuration of a trial.
        where: what stands before what is said.

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
    if not taught_by(cfg):
        return
    names = names_of("judge", str(cfg.judge["_target_"]))
    if allowed not in names:
        name = _chosen(cfg.judge, names)
        raise UserError(
            f"{where}eval_judge: the policy learns from the same judge, {name}, and its own teacher would test it; "
            f"choose another model, leave it out with eval_judge={NOBODY}, or ask for it by name with "
            f"evaluation.same_judge={name}"
        )


def _chosen(node: DictConfig, names: list[str]) -> str:
    """Of the options of one class, the one whose schema the settings are nearest to; the class without any."""
    from rft.config.files import read_option

    def unlike(name: str) -> int:
        file = next(option.path for option in options() if option.key == ("judge", name))
        return sum(key in node and node[key] != value for key, value in read_option(file).items())

    return min(names, key=unlike, default=str(node["_target_"]))


class FinalJudge:
    """What the stage `evaluation` takes from the judge of the final test; nothing without one."""

    def __init__(self, chosen: Chosen) -> None:
        self.cfg = chosen.cfg
        self.judge = None if chosen.cfg.eval_judge is None else JudgePart(chosen, "eval_judge")

    def address(self) -> dict[str, Any]:
        """The settings of the final test, with those of its judge."""
        own: dict[str, Any] = {name: value for name, value in plain(self.cfg.evaluation).items() if name != PERMISSION}
        return own | ({} if self.judge is None else {"eval_judge": self.judge.settings()})

    def inputs(self) -> dict[str, Entry]:
        """What the judge is made from."""
        return {} if self.judge is None else self.judge.inputs()

    def make(self, inputs: Mapping[str, Entry]) -> Callable[[], JudgedRows] | None:
        """What makes the judge, once the answers are about to be scored."""
        judge = self.judge
        if judge is None:
            return None

        def made() -> JudgedRows:
            from rft.evaluation.judged import JudgedRows

            return JudgedRows(judge.make(inputs, trial=True), taught=taught_by(self.cfg))

        return made
