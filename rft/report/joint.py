"""Several studies as one: which arms are the same, what the studies do not share, which splits all have."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rft.errors import UserError
from rft.report.alike import common_splits, names, same_questions, settings, tested_with, vanished
from rft.report.joint_tuning import join_tuning
from rft.report.records import StudyResults, Trial

START = ("questions", "gold", "sft", "candidates")
"""Stages that all trials of a comparison have to share."""
FEEDBACK = ("annotators", "preferences", "reward_model")
"""Stages that trials with the same feedback and reward have to share."""
FEEDBACK_GROUPS = ("feedback", "judge", "reward")
EVALUATION = "evaluation settings"

Named = tuple[str, Trial]


def _members(studies: Sequence[StudyResults]) -> dict[str, list[Named]]:
    """(study, trial) of all trials, by the name of their arm."""
    by_name: dict[str, list[Named]] = defaultdict(list)
    for results in studies:
        for trial in results.trials:
            folder = f"{results.study}/{trial.folder}"
            by_name[trial.arm].append((results.study, replace(trial, folder=folder)))
    return by_name


def join(studies: Sequence[StudyResults]) -> StudyResults:
    """One comparison of the trials of `studies`, which were read with one `Pool`.

    Arms of one name are one arm if they were run alike: the same settings, the same shared results, and no seed that
    came out in two ways; a trial that several studies hold counts once. All other arms of one name are told apart as
    ``study/arm``. What the studies do not share is told in `warnings`, and a trial that answered other questions than
    most, on the splits that all studies have, is left out. What tuning found is kept of the arms that are left.

    Raises:
        UserError: no trial is left.
    """
    if len(studies) == 1:
        return studies[0]
    shared_names = _shared_names(studies)
    trials = _merged(studies, shared_names)
    shared = common_splits(trials)
    usable = same_questions(shared)
    failed = [
        *(replace(one, folder=f"{study.study}/{one.folder}") for study in studies for one in study.failed),
        *usable.failed,
    ]
    if not usable.trials:
        raise UserError(f"no trial of {names([study.study for study in studies])} can be compared")
    tuning = join_tuning(studies, shared_names, {trial.arm for trial in usable.trials})
    return StudyResults(
        study=" + ".join(study.study for study in studies),
        trials=tuple(sorted(usable.trials, key=lambda trial: (trial.arm, trial.seed))),
        failed=tuple(sorted(failed, key=lambda trial: trial.folder)),
        warnings=(
            *(f"{study.study}: {warning}" for study in studies for warning in study.warnings),
            *_unlike(studies),
            *tuning.warnings,
            *_splits_dropped(studies, shared),
            *usable.warnings,
            *vanished(usable.trials, usable.failed),
        ),
        incomplete=_incomplete(studies),
        tuning=tuning.found,
    )


def _shared_names(studies: Sequence[StudyResults]) -> frozenset[str]:
    """Names that mean one arm in all studies that have it."""
    return frozenset(name for name, members in _members(studies).items() if _one_arm(members))


def _merged(studies: Sequence[StudyResults], shared_names: Collection[str]) -> list[Trial]:
    """All trials, each once, with the names of their arms in the comparison."""
    found = []
    for name, members in _members(studies).items():
        known: set[int] = set()
        for study, trial in members:
            if name not in shared_names:
                found.append(replace(trial, arm=f"{study}/{name}"))
            elif trial.seed not in known:
                known.add(trial.seed)
                found.append(trial)
    return found


def _one_arm(members: Sequence[Named]) -> bool:
    """Whether trials of one name in several studies are seeds of one arm."""
    trials = [trial for _, trial in members]
    if len({study for study, _ in members}) == 1:
        return True
    results: dict[int, set[str]] = defaultdict(set)
    for trial in trials:
        results[trial.seed].add(trial.stages["evaluation"].key if "evaluation" in trial.stages else "")
    alike = {(settings(trial.config), tuple(_shared(trial))) for trial in trials}
    return len(alike) == 1 and all(len(keys) == 1 for keys in results.values())


def _shared(trial: Trial) -> Iterator[tuple[str, str, str]]:
    """(stage, key, digest) of what the trial did not make itself."""
    for stage in (*START, *FEEDBACK):
        if stage in trial.stages:
            yield stage, trial.stages[stage].key, trial.stages[stage].digest


def _unlike(studies: Sequence[StudyResults]) -> list[str]:
    """A sentence for each study that does not share its stages with the first, naming them."""
    first, *others = studies
    told = []
    for study in others:
        stages = [stage for stage in START if _results(first.trials, stage) != _results(study.trials, stage)]
        stages += [stage for stage in FEEDBACK if _differ(first.trials, study.trials, stage)]
        if _evaluations(first.trials) != _evaluations(study.trials):
            stages.append(EVALUATION)
        if stages:
            told.append(
                f"{study.study} and {first.study} do not share {names(stages)}: "
                "differences between their arms are not due to the algorithm alone"
            )
    return told


def _results(trials: Iterable[Trial], stage: str) -> set[tuple[str, str]]:
    """Distinct (key, digest) of a stage."""
    return {(t.stages[stage].key, t.stages[stage].digest) for t in trials if stage in t.stages}


def _differ(first: Sequence[Trial], second: Sequence[Trial], stage: str) -> bool:
    """Whether trials with the same feedback used other results; if none have the same, whether no result is common."""
    ours, theirs = _by_feedback(first), _by_feedback(second)
    both = ours.keys() & theirs.keys()
    if both:
        return any(_results(ours[option], stage) != _results(theirs[option], stage) for option in both)
    mine, other = _results(first, stage), _results(second, stage)
    return bool(mine and other) and not mine & other


def _by_feedback(trials: Sequence[Trial]) -> Mapping[str, list[Trial]]:
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        found[json.dumps([_target(trial, group) for group in FEEDBACK_GROUPS])].append(trial)
    return found


def _target(trial: Trial, group: str) -> Any:
    return (trial.config.get(group) or {}).get("_target_")


def _evaluations(trials: Sequence[Trial]) -> set[str]:
    """The settings of the final test that the trials had, as text."""
    return {
        json.dumps(
            [tested_with(t.config), (t.config.get("task") or {}).get("response_tokens")],
            sort_keys=True,
            default=str,
        )
        for t in trials
    }


def _splits_dropped(studies: Sequence[StudyResults], shared: Sequence[Trial]) -> list[str]:
    kept = sorted({split for trial in shared for split in trial.rows})
    told = []
    for study in studies:
        lost = [split for split in study.splits if split not in kept]
        if lost:
            told.append(f"not all studies have the split {names(lost)} of {study.study}: {names(kept)} is compared")
    return told


def _incomplete(studies: Sequence[StudyResults]) -> dict[str, Any] | None:
    """The sums over the studies that are incomplete; arms are named with their study."""
    partial = [(study.study, study.incomplete) for study in studies if study.incomplete]
    if not partial:
        return None
    return {
        "planned": sum(part["planned"] for _, part in partial),
        "finished": sum(part["finished"] for _, part in partial),
        **{
            state: [{**one, "arm": f"{study}/{one['arm']}"} for study, part in partial for one in part[state]]
            for state in ("running", "missing")
        },
    }
