"""What tuning found in several studies, as one record; what they did not tune alike is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rft.report.alike import names
from rft.report.records import StudyResults

BY_ARM = ("arms", "cost")
"""The keys of the record that hold an entry for each arm; the others are how the study tuned."""


class JoinedTuning(NamedTuple):
    """The key ``tuning`` of the summary, None if nothing of it is left, and what a reader has to know."""

    found: dict[str, Any] | None
    warnings: list[str]


def join_tuning(studies: Sequence[StudyResults], shared_names: Collection[str], left: Collection[str]) -> JoinedTuning:
    """Tuning of the arms `left`, by their names in the comparison.

    How the studies tuned (budget, objective, split and so on) is kept where they agree; else it is None and a warning
    says so, since arms that had a larger budget may be better for that alone. An arm that several studies tuned, to the
    same settings, has the first one's record.
    """
    tuned = [(study, study.tuning) for study in studies if study.tuning]
    arms: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    kept: list[tuple[str, Mapping[str, Any]]] = []
    warnings = []
    for study, tuning in tuned:
        own = {name if name in shared_names else f"{study.study}/{name}": name for name in tuning["arms"]}
        own = {joined: name for joined, name in own.items() if joined in left}
        for joined, name in own.items():
            if joined in arms and arms[joined] != tuning["arms"][name]:
                warnings.append(f"{joined} was tuned in several studies: that of {study.study} is not shown")
            elif joined not in arms:
                arms[joined] = tuning["arms"][name]
                if name in (tuning.get("cost") or {}):
                    cost[joined] = tuning["cost"][name]
        if own:
            kept.append((study.study, tuning))
    if not kept:
        return JoinedTuning(None, [])
    terms, unlike = _terms([tuning for _, tuning in kept])
    if unlike:
        warnings.append(
            f"{names([study for study, _ in kept])} did not tune alike ({names(unlike)} differ): "
            "differences between their arms may be due to tuning"
        )
    return JoinedTuning({**terms, "arms": arms, "cost": cost}, [*warnings, *_untuned(studies, shared_names, arms)])


def _terms(tunings: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What all tuned by, None where they differ, and in what they differ."""
    first = tunings[0]
    keys = dict.fromkeys(key for tuning in tunings for key in tuning if key not in BY_ARM)
    unlike = [key for key in keys if any(tuning.get(key) != first.get(key) for tuning in tunings)]
    return {key: None if key in unlike else first.get(key) for key in keys}, unlike


def _untuned(studies: Sequence[StudyResults], shared_names: Collection[str], tuned: Collection[str]) -> list[str]:
    """A sentence for each study without tuning whose arms, of algorithms that others tuned or do not have, went in."""
    # What studies that tune leave as it is, such as the control, has nothing to tune.
    fixed = {
        trial.algorithm
        for study in studies
        if study.tuning
        for trial in study.trials
        if trial.arm not in study.tuning["arms"]
    }
    told = []
    for study in studies:
        own = {
            trial.arm if trial.arm in shared_names else f"{study.study}/{trial.arm}": trial.algorithm
            for trial in study.trials
        }
        plain = sorted(arm for arm, algorithm in own.items() if arm not in tuned and algorithm not in fixed)
        if plain and not study.tuning:
            told.append(f"{names(plain)} of {study.study} ran untuned, others with what tuning found")
    return told
