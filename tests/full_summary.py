"""A summary with everything that a report can show: what the study's trials do not have is made up here, by rule.

Keys that are there already stay, so that the pages of these tests show as much of the real summary as there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

AXES = ("prompts", "generated_tokens", "trained_tokens", "flops", "seconds", "labels", "money")
CHECKPOINTS = (0.25, 0.5, 0.75, 1.0)
TEXTS = {
    "covers_text": "A seed repeated the policy stage; the shared stages were fixed, so drawing labels is not covered.",
    "correction": "holm",
}


def full(summary: dict[str, Any]) -> dict[str, Any]:
    """`summary` with checkpoints, win rates, ranking, fits, budgets and tuning added where they are missing."""
    arms = list(summary["arms"])
    summary["statistics"] |= {key: text for key, text in TEXTS.items() if key not in summary["statistics"]}
    for split in summary["splits"]:
        for arm in arms:
            _arm(summary["arms"][arm]["splits"][split], is_control=arm == summary["control"])
        for pair in summary["pairs"][split]:
            _difference(pair)
            for share in ("probability_of_improvement", "win_rate", "win_rate_lc"):
                pair.setdefault(share, _share(pair["mean"]))
    split = summary["splits"][0]
    if max((len(points) for points in summary.get("frontier", {}).values()), default=0) <= 3:
        summary["frontier"] = {arm: _frontier(summary, arm, split) for arm in arms}
    summary.setdefault("ranking", {split: _ranking(summary, split) for split in summary["splits"]})
    if not any(summary.get("overoptimisation", {}).values()):
        summary["overoptimisation"] = {arm: None if arm == summary["control"] else _law() for arm in arms}
    if not any((summary.get("two_way") or {}).values()):
        summary["two_way"] = {name: _two_way(summary, name) for name in summary["splits"]}
    told = "The column judge is the mean score by few_shot, in its own unit; it decides no verdict."
    summary["eval_judge"] = summary["eval_judge"] or {"judges": ["few_shot"], "taught": [], "sentences": [told]}
    summary["label_quality"] = summary["label_quality"] or [_quality(summary, name, split) for name in ("ppo", "dpo")]
    summary["cost"].setdefault("budget", _budget(arms))
    if not summary.get("tuning"):
        summary["tuning"] = _tuning([arm for arm in arms if arm != summary["control"]][:6])
    return summary


def _interval(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "covers": "seeds and prompts"}


def _share(difference: float) -> dict[str, Any]:
    mean = float(np.clip(0.5 + 1.5 * difference, 0.02, 0.98))
    return {"mean": mean, "low": max(0.0, mean - 0.08), "high": min(1.0, mean + 0.08), "covers": "seeds and prompts"}


def _difference(entry: dict[str, Any]) -> None:
    entry.setdefault("p_value", 0.001 if entry["excludes_zero"] else 0.3)
    entry.setdefault("holm_p", 0.003 if entry["excludes_zero"] else 0.6)
    entry.setdefault("seeds_needed", None if entry["excludes_zero"] else 7)


def _arm(row: dict[str, Any], *, is_control: bool) -> None:
    row.setdefault("iqm", _interval(row["gold"]["mean"] + 0.01, 0.03))
    row.setdefault("gap", None if is_control else {"mean": 0.4, "low": -0.1, "high": 0.9})
    if not row.get("judge"):
        difference = None if is_control else _interval(0.4, 0.3)
        row["judge"] = _interval(1.2, 0.4) | {"difference": difference, "excluded": 0.0}
    if row["difference"]:
        _difference(row["difference"])
    for share in ("win_rate", "win_rate_lc"):
        row.setdefault(share, _share(row["difference"]["mean"]) if row["difference"] else None)


def _quality(summary: dict[str, Any], optimiser: str, split: str) -> dict[str, Any]:
    points = [
        {"arm": arm, "agreement": 0.6 + 0.05 * place, "gold": summary["arms"][arm]["splits"][split]["gold"]}
        for place, arm in enumerate(list(summary["arms"])[:5])
    ]
    return {"optimiser": optimiser, "points": points, "rise": _interval(0.04, 0.02), "sentence": f"{optimiser} rises."}


def _frontier(summary: dict[str, Any], arm: str, split: str) -> list[dict[str, Any]]:
    control = summary["control"]
    start = summary["arms"][control]["splits"][split]["gold"]["mean"] if control else 0.5
    points = []
    for seed in summary["arms"][arm]["splits"][split]["per_seed"]:
        final = {"seed": seed["seed"], "checkpoint": None, "step": 96, "fraction": 1.0, "final": True}
        final |= {name: seed[name] for name in ("kl", "gold", "proxy")}
        for number, part in enumerate(CHECKPOINTS[:-1] if arm != control else ()):
            rise = 1.0 - (1.0 - part) ** 2
            points.append(
                {
                    "seed": seed["seed"], "checkpoint": number, "step": int(96 * part), "fraction": part,
                    "final": False, "kl": seed["kl"] * part, "gold": start + (seed["gold"] - start) * rise,
                    "proxy": None if seed["proxy"] is None else seed["proxy"] * part,
                }
            )  # fmt: skip
        points.append(final if arm != control else {**final, "step": 0})
    return points


def _ranking(summary: dict[str, Any], split: str) -> list[dict[str, Any]]:
    gold = {arm: record["splits"][split]["gold"]["mean"] for arm, record in summary["arms"].items()}
    middle = sum(gold.values()) / len(gold)
    order = sorted(gold, key=lambda arm: -gold[arm])
    return [{"arm": arm, "strength": (s := 5 * (gold[arm] - middle)), "low": s - 0.3, "high": s + 0.3} for arm in order]


def _law() -> dict[str, Any]:
    alpha, beta = {"mean": 0.21, "low": 0.15, "high": 0.27}, {"mean": 0.05, "low": 0.01, "high": 0.09}
    sentence = "Its gold reward still rises at the largest KL that it reached."
    return {"law": "rl", "alpha": alpha, "beta": beta, "points": 12, "sentence": sentence}


def _two_way(summary: dict[str, Any], split: str) -> dict[str, Any] | None:
    kinds = {"ppo": ("simulated", "ppo"), "dpo": ("simulated", "dpo"), "rlaif": ("ai", "ppo")}
    cells = [
        {"feedback": feedback, "optimiser": optimiser, "arms": [arm], **summary["arms"][arm]["splits"][split]["gold"]}
        for arm, (feedback, optimiser) in kinds.items()
        if arm in summary["arms"]
    ]
    return {"feedbacks": ["simulated", "ai"], "optimisers": ["ppo", "dpo"], "cells": cells} if len(cells) > 1 else None


def _budget(arms: list[str]) -> dict[str, Any]:
    once = {"prompts": 768, "generated_tokens": 14_400, "trained_tokens": 28_800, "flops": 1.9e14, "seconds": 144.0,
            "labels": 512, "money": 0.19}  # fmt: skip

    def used(factor: float) -> dict[str, float]:
        return {resource: amount * factor for resource, amount in once.items()}

    prices = {"gpu_hour": 2.0, "human_label": 0.1, "judge_mtoken": 0.5}
    records: dict[str, Any] = {}
    for place, arm in enumerate(arms):
        records[arm] = {"own": used(place + 1), "full": used(place + 3), "shared": used(place + 1.5)}
        records[arm]["limit"] = {"generated_tokens": 14_400} if place else {}
        records[arm]["stopped_by"] = "generated_tokens" if place else None
        records[arm] |= {"charge": "training", "stops": {"generated_tokens" if place else "schedule": 3}}
        records[arm]["prices"] = prices
    return {"resources": list(once), "arms": records, "prices": prices}


def _tuning(arms: list[str]) -> dict[str, Any]:
    found = {}
    for place, arm in enumerate(arms):
        values = np.random.default_rng(place).uniform(0.5, 0.8, 8)
        trials: list[dict[str, Any]] = [
            {"number": n, "settings": {"algorithm.lr": 10.0 ** -(3 + n % 3)}, "value": float(v), "seed": 100 + n}
            for n, v in enumerate(values)
        ]
        best = np.maximum.accumulate(values)
        found[arm] = {
            "trials": trials,
            "best_so_far": [float(v) for v in best],
            "winner": trials[int(values.argmax())]["settings"],
        }
    cost = {arm: {"seconds": 1200.0, "generated_tokens": 115_200.0} for arm in found}
    return {"budget": {"trials": 8}, "objective": "gold", "split": "validation", "arms": found, "cost": cost}
