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


def feedback_of(results: StudyResults, arm: str) -> str | None:
    """The feedback's short name; None for an arm whose policy used neither labels nor a reward made of them."""
    use = results.arm(arm)[0].stages.get("policy")
    inputs = use.entry.inputs if use and use.entry else {}
    if inputs and not set(LABELLED) & set(inputs):
        return None
    return option(results, arm, "feedback") or None


def optimiser_of(results: StudyResults, arm: str) -> str:
    """The algorithm apart from its feedback; one that begins from a revised start is another optimiser."""
    use = results.arm(arm)[0].stages.get("policy")
    revised = use is not None and use.entry is not None and "revisions" in use.entry.inputs
    return f"{_algorithm_of(results, arm)} (revised start)" if revised else _algorithm_of(results, arm)


def _algorithm_of(results: StudyResults, arm: str) -> str:
    """The algorithm's name; of one whose name stands for a feedback as well, that of the algorithm it builds on."""
    trial = results.arm(arm)[0]
    settings = trial.config.get("algorithm") or {}
    if not settings.get("requires_feedback"):
        return trial.algorithm
    try:
        declared = config_class(str(settings.get("_target_", "")).rpartition(".")[0])
    except UserError:  # a plugin that is not installed where the report is made
        return trial.algorithm
    # An algorithm's Config is extracted from its module's source and says so by a colon.
    parent, extracted, _ = declared.__mro__[1].__module__.partition(":")
    return parent.rpartition(".")[2] if extracted else trial.algorithm


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
