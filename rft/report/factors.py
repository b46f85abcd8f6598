"""What an arm learned from and by which optimiser: two factors, told apart in a two-way table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.config.extract import config_class
from rft.errors import UserError
from rft.evaluation.statistics import Bootstrap
from rft.report.feedback import option
from rft.report.load import StudyResults

LABELLED = ("preferences", "reward_model")
DIRECT = "ai (direct)"


def feedback_of(results: StudyResults, arm: str) -> str | None:
    """The feedback's short name; None for an arm whose policy used neither labels nor a reward made of them.

    With how it came to the policy, where neither old labels nor a reward model that learned from them stood between:
    ``(online)`` if the source labelled fresh responses, ``ai (direct)`` if the reward was the judge's own score.
    """
    trial = results.arm(arm)[0]
    use, named = trial.stages.get("policy"), option(results, arm, "feedback") or None
    entry = use.entry if use else None
    asked = entry.manifest["config"] if entry else {}
    if "feedback" in asked:
        return f"{named} (online)"
    # Where the store has lost the entry, the algorithm's name may still say it.
    if "judge" in asked or (entry is None and (trial.config.get("algorithm") or {}).get("requires_reward") == "judge"):
        return DIRECT
    if entry and entry.inputs and not set(LABELLED) & set(entry.inputs):
        return None
    return named


def optimiser_of(results: StudyResults, arm: str) -> str:
    """The algorithm apart from its feedback; one that begins from a revised start is another optimiser."""
    use = results.arm(arm)[0].stages.get("policy")
    revised = use is not None and use.entry is not None and "revisions" in use.entry.inputs
    return f"{_algorithm_of(results, arm)} (revised start)" if revised else _algorithm_of(results, arm)


def _algorithm_of(results: StudyResults, arm: str) -> str:
    """The algorithm's name; of one that differs from another by what it learns from alone, that of the other."""
    trial = results.arm(arm)[0]
    settings = trial.config.get("algorithm") or {}
    try:
        declared = config_class(str(settings.get("_target_", "")).rpartition(".")[0])
    except UserError:  # a plugin that is not installed where the report is made
        return trial.algorithm
    for found in declared.__mro__:
        # An algorithm's Config is extracted from its module's source and says so by a colon.
        module, extracted, _ = found.__module__.partition(":")
        if not extracted:
            break
        if not _same_optimiser(found):
            return trial.algorithm if found is declared else module.rpartition(".")[2]
    return trial.algorithm


def _same_optimiser(config: type[Any]) -> bool:
    """Whether a Config itself says that it is for the optimiser of the one that it extends."""
    own = vars(config)
    return bool(own.get("same_optimiser") or own.get("requires_feedback") or own.get("requires_reward"))


def two_way(bootstrap: Bootstrap, arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean gold by feedback and optimiser, over the arms of a cell; None with fewer than two feedbacks.

    With one feedback it would say again what the table of arms says.

    `arms`: their records, with `feedback` and `optimiser`; an arm without feedback is in no cell.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for arm, record in arms.items():
        if record["feedback"] is not None:
            cells.setdefault((record["feedback"], record["optimiser"]), []).append(arm)
    if len({feedback for feedback, _ in cells}) < 2:
        return None
    return {
        "feedbacks": _distinct([feedback for feedback, _ in cells]),
        "optimisers": _distinct([optimiser for _, optimiser in cells]),
        "cells": [_cell(bootstrap, *factors, names) for factors, names in sorted(cells.items())],
    }


def _cell(bootstrap: Bootstrap, feedback: str, optimiser: str, arms: Sequence[str]) -> dict[str, Any]:
    interval = bootstrap.contrast({arm: 1.0 / len(arms) for arm in arms})
    return {
        "feedback": feedback,
        "optimiser": optimiser,
        "arms": list(arms),
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "covers": interval.covers,
    }


def _distinct(names: Sequence[str]) -> list[str]:
    return sorted(set(names))
