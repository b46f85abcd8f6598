"""The stage ``audit``: what a judge is asked so that it can be measured, and what it answered.

Dimensions: ``M`` pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from rft.config import AuditConfig
from rft.config.options import option_like
from rft.errors import UserError
from rft.feedback.attacks import ATTACKS
from rft.feedback.audit import (
    attack_success,
    calibration,
    consistency,
    length_preference,
    order_effects,
    picks,
    self_preference,
    share,
)
from rft.feedback.audit_cases import Answered, Case, Own, ask, attack_cases, rated_cases, write_pairs
from rft.feedback.base import Answer, Work
from rft.feedback.clarity import with_people
from rft.feedback.economics import LabelCosts, divide, label_economics
from rft.feedback.ratings import ASSET, HumanPairs, Ratings, human_pairs, read_ratings
from rft.store import Entry
from rft.store.assets import fetch
from rft.store.cost import COST
from rft.store.names import AUDIT_FILE
from rft.study.parts import part_class, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from rft.budget import Prices
    from rft.feedback.annotators import AnnotatorModel
    from rft.feedback.judges.base import Judge
    from rft.study.pipeline import Pipeline
    from rft.tasks.base import GoldReward

PAIRS_FILE = "pairs.parquet"


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage before it is asked for."""

    address: Mapping[str, Any]
    inputs: Mapping[str, Entry]
    make: Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class About:
    """Which judge is audited."""

    judge: str  # the option that its settings are nearest to
    form: str | None  # None: its settings have none
    model: str | None  # None: it has none
    same_family: bool | None  # whether its model is the one that the policy starts from; None: nobody knows


@dataclass(frozen=True, slots=True)
class Material:
    """What the judge is asked about, and measured by."""

    ratings: Ratings
    gold: GoldReward
    annotators: AnnotatorModel
    own: Sequence[Own]


def plan_audit(pipeline: Pipeline) -> Planned:
    """The audit of a configuration's judge.

    Raises:
        UserError: if ``audit.pairs`` is 0.
    """
    cfg, config = pipeline.cfg, OmegaConf.to_object(pipeline.cfg.audit)
    assert isinstance(config, AuditConfig)
    if config.pairs == 0:
        raise UserError("audit.pairs=0: audits nothing; give a number of pairs, such as 400")
    prices = pipeline.budget.prices(on_gpu=pipeline.strategy.on_gpu)
    of_judge = pipeline.judge.inputs()
    inputs = {"ratings": fetch(pipeline.store, ASSET), "gold": pipeline.gold, "annotators": pipeline.annotators}
    inputs |= of_judge
    if config.self_pairs:
        inputs |= {"questions": pipeline.questions, "candidates": pipeline.candidates}
    listed = {"human_label": prices.human_label, "judge_mtoken": prices.judge_mtoken}
    about = _about(cfg, same_family=_same_family(pipeline, of_judge))

    def make(out: Path) -> Mapping[str, Any]:
        judge = pipeline.judge.make(inputs)
        own = _own(pipeline, inputs, config) if config.self_pairs else []
        return make_audit(config, judge, about, _material(pipeline, inputs, own), prices, out)

    return Planned({"audit": plain(cfg.audit), "prices": listed} | pipeline.judge.address(), inputs, make)


def make_audit(
    config: AuditConfig, judge: Judge, about: About, material: Material, prices: Prices, out: Path
) -> dict[str, Any]:
    """Ask the judge, write ``audit.json`` and ``pairs.parquet``; returns the main figures as the stage's metrics."""
    rated = human_pairs(material.ratings, config.pairs, config.seed)
    cases = rated_cases(material.ratings, rated)
    asked = ask(judge, cases)
    again_cases = [replace(case, kind="again") for case in cases[: config.again_pairs]]
    again = ask(judge.asked_again(1), again_cases)
    own_cases = [
        Case("self", (f"{o.prompt_id}:policy", f"{o.prompt_id}:human"), (o.policy, o.human)) for o in material.own
    ]
    own = ask(judge, own_cases)
    attacked_cases = list(attack_cases(material.ratings, config.attack_pairs, config.seed + 1))
    attacks = ask(judge, attacked_cases)
    parts = ((cases, asked), (again_cases, again), (own_cases, own), (attacked_cases, attacks))
    standard = [_gold_prefers(material.gold, some) for some, _ in parts]
    work, seconds = sum((one.work for _, one in parts), Work()), sum(one.seconds for _, one in parts)
    form = about.form or ("pointwise" if judge.one_by_one else "pairwise")
    figures: dict[str, Any] = {"judge": about.judge, "form": form, "model": about.model}
    figures |= _on_rated(config, judge, material, rated, cases, asked, standard[0])
    figures["self_preference"] = _on_own(about, own, standard[2]) if own_cases else None
    figures["again"] = consistency(asked.preference[: len(again_cases)], again.preference) if again_cases else None
    figures["attacks"] = _on_attacks(judge, attacked_cases, attacks) if attacked_cases else None
    figures |= _on_work(work, seconds)
    figures["economics"] = _economics(config, material, rated, cases, asked, prices)
    (out / AUDIT_FILE).write_text(json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    write_pairs([(*part, gold) for part, gold in zip(parts, standard, strict=True)], out / PAIRS_FILE)
    return _metrics(figures) | {COST: {"kept": work.kept, "judge_seconds": work.seconds}}


def _on_rated(
    config: AuditConfig,
    judge: Judge,
    material: Material,
    rated: HumanPairs,
    cases: Sequence[Case],
    asked: Answered,
    standard: NDArray[np.float64],
) -> dict[str, Any]:
    """What the pairs that people rated say of the judge: agreement, order, length, calibration."""
    preference, first = asked.preference, rated.first_better
    texts = [[len(answer.text) for answer in case.answers] for case in cases]
    by_gold = np.where(standard == 0.5, np.nan, picks(preference, standard > 0.5))
    return {
        "human": with_people(material.ratings, rated, cases, asked, config.seed),
        "gold": {"pairs": int((~np.isnan(by_gold)).sum()), "accuracy": share(by_gold)},
        "order": None if judge.one_by_one else order_effects(asked.orders),
        "length": length_preference(preference, first, np.array(texts, dtype=np.int64).reshape(-1, 2)),
        "calibration": calibration(preference, first),
    }


def _on_own(about: About, own: Answered, standard: NDArray[np.float64]) -> dict[str, Any]:
    found = self_preference(own.preference, standard)
    return {"pairs": found["pairs"], "same_family": about.same_family} | found


def _on_attacks(judge: Judge, cases: Sequence[Case], asked: Answered) -> dict[str, Any]:
    """The cases of a pair: as it is, with the control, with each attack; what the judge did not see says nothing."""
    seen = np.array(judge.reads_whole([case.answers[1] for case in cases]))
    orders = np.where(seen[:, None], asked.orders, np.nan).reshape(-1, 2 + len(ATTACKS), 2)
    # The attacked text is the second of its pair: it is shown first where the other, the better one, is shown second.
    works = np.array([[attack.place in (None, 1), attack.place in (None, 0)] for attack in ATTACKS.values()])
    return attack_success(orders[:, 0], orders[:, 2:], orders[:, 1], list(ATTACKS), works)


def _on_work(work: Work, seconds: float) -> dict[str, Any]:
    """What it took. A judge in this process does not time its questions: then the wall clock is divided by them."""
    each = (work.seconds or seconds) / max(work.questions, 1)
    return {
        "unread": {name: getattr(work, name) for name in ("questions", "retried", "excluded")},
        "cost": {name: getattr(work, name) for name in ("questions", "kept", "read", "written", "money")},
        "seconds_per_question": each,
    }


def _economics(
    config: AuditConfig,
    material: Material,
    rated: HumanPairs,
    cases: Sequence[Case],
    asked: Answered,
    prices: Prices,
) -> list[dict[str, Any]]:
    """People, simulated annotators and the judge on the pairs that people rated."""
    from rft.feedback.simulated import Config as SimulatedConfig
    from rft.feedback.simulated import Simulated

    answers = [answer for case in cases for answer in case.answers]
    source = Simulated(SimulatedConfig(seed=config.seed), material.gold, material.annotators)
    simulated = source.label(answers, np.arange(len(answers)).reshape(-1, 2))
    work = asked.work
    spent = work.usage.judge_money + work.usage.judge_tokens / 1e6 * prices.judge_mtoken
    costs = LabelCosts(
        person=prices.human_label,
        simulated=simulated.human_labels / len(cases) * prices.human_label,
        judge=spent / len(cases),
    )
    panel = divide(material.ratings, rated, config.seed)
    return label_economics(panel, asked.preference, simulated.preference, costs)


def _gold_prefers(gold: GoldReward, cases: Sequence[Case]) -> NDArray[np.float64]:
    """1 where the first text has the higher gold, 0 where the second, ½ where they are alike. Shape [M]."""
    if not cases:
        return np.empty(0)
    logits = gold.logit([answer.text for case in cases for answer in case.answers]).reshape(-1, 2)
    return (1 + np.sign(logits[:, 0] - logits[:, 1])) / 2


def _metrics(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The main figures, by the names of `rft store`'s metrics: numbers, or None for what does not apply."""

    def value(*path: str) -> float | None:
        found: Any = figures
        for name in path:
            found = None if found is None else found[name]
        return found if found is None else float(found)

    return {
        "pairs": figures["human"]["pairs"],
        "human_accuracy": value("human", "accuracy", "value"),
        "human_auc": value("human", "auc", "value"),
        "human_ceiling": value("human", "ceiling", "majority"),
        "gold_accuracy": value("gold", "accuracy", "value"),
        "flips": value("order", "flips", "value"),
        "length_excess": value("length", "excess", "value"),
        "ece": value("calibration", "ece"),
        "self_preference": value("self_preference", "excess", "value"),
        "again_same": value("again", "same", "value"),
        "attack_success": value("attacks", "success", "value"),
        "excluded": figures["unread"]["excluded"],
    }


def _material(pipeline: Pipeline, inputs: Mapping[str, Entry], own: Sequence[Own]) -> Material:
    from rft.feedback.annotators import load_annotators

    return Material(
        read_ratings(inputs["ratings"].path),
        pipeline.task.load_gold(inputs["gold"].path),
        load_annotators(inputs["annotators"].path),
        own,
    )


def _own(pipeline: Pipeline, inputs: Mapping[str, Entry], config: AuditConfig) -> list[Own]:
    """Random training questions that people's continuation is known of, with the start policy's first response."""
    from transformers import AutoTokenizer

    from rft.data.offline import read_table

    tokenizer = AutoTokenizer.from_pretrained(pipeline.model.path)
    written = pipeline.task.continuations(inputs["questions"].path, tokenizer)
    candidates = read_table(inputs["candidates"].path / "candidates.parquet")
    known = [row for row in candidates if row["sample"] == 0 and row["prompt_id"] in written]
    order = np.random.default_rng(config.seed).permutation(len(known))[: config.self_pairs]
    chosen = [known[i] for i in order.tolist()]
    return [
        Own(
            row["prompt_id"],
            Answer(row["prompt"], row["response"]),
            Answer(row["prompt"], written[row["prompt_id"]]),
        )
        for row in chosen
    ]


def _same_family(pipeline: Pipeline, of_judge: Mapping[str, Entry]) -> bool | None:
    """Whether the judge is, or stands on, the model that the policy starts from; None if no entry of it tells."""
    if "annotators" in pipeline.judge.found.needs:  # simulated: it stands on the gold, no language model
        return False
    models = {entry.inputs["model"] for entry in of_judge.values() if "model" in entry.inputs}
    models |= {of_judge["model"].key} if "model" in of_judge else set()
    return pipeline.model.key in models if models else None


def _about(cfg: DictConfig, *, same_family: bool | None) -> About:
    """Name and form of the judge as its settings say them, for a reader."""
    node, found = cfg.judge, part_class("judge", cfg.judge)
    form, model = node.get("form"), node.get("model")
    if model is None and "model" in found.needs:
        own = node.get("asset") or node.get("path")
        given = own or cfg.model.get("asset") or cfg.model.get("path")
        model = Path(str(given)).name if given else _module(cfg.model)
    kind = form.value if isinstance(form, Enum) else form
    return About(
        option_like("judge", plain(node)) or _module(node), kind, None if model is None else str(model), same_family
    )


def _module(node: DictConfig) -> str:
    """``few_shot`` of ``rft.feedback.judges.few_shot.FewShotJudge``."""
    return str(node["_target_"]).split(".")[-2]
