"""Which trials can be compared: an arm's seeds have the same settings, all trials answered the same questions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rft.report.records import FailedTrial, Trial
from rft.report.rows import Questions, row_names
from rft.report.wording import shortlist

COSMETIC = frozenset(("seed", "study", "arm", "until", "tracker", "audit"))
"""Settings that decide no result, or are the seed."""
LISTED = 5


class Kept(NamedTuple):
    """Trials that can be compared, the others, and what the choice between them has to be told about."""

    trials: list[Trial]
    failed: list[FailedTrial]
    warnings: list[str]


def names(items: Sequence[str]) -> str:
    """A listing that stays readable however many there are."""
    return shortlist(items, LISTED)


def settings(config: Mapping[str, Any]) -> str:
    """What the seeds of an arm have in common: all that decides results but the seed."""
    kept = {key: value for key, value in config.items() if key not in COSMETIC}
    return json.dumps(kept, sort_keys=True, default=str)


def left_out(trial: Trial, why: str) -> FailedTrial:
    """The record of a trial whose rows are there and are not used."""
    return FailedTrial(trial.arm, trial.seed, trial.folder or f"{trial.arm}/seed-{trial.seed}", why)


def same_settings(trials: Sequence[Trial]) -> Kept:
    """Keep, in each arm, the trials with the most common settings; on a tie, the lowest seed's."""
    arms: dict[str, list[tuple[str, Trial]]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: t.seed):
        arms[trial.arm].append((settings(trial.config), trial))
    why = "its settings are not those of the arm's other seeds; give the arm another name, or run them again alike"
    kept, failed, warnings = [], [], []
    for arm, members in arms.items():
        counts = Counter(own for own, _ in members)
        (usual, most), *others = counts.most_common()
        if others and others[0][1] == most:
            seeds = names([str(trial.seed) for own, trial in members if own == usual])
            warnings.append(f"as many seeds of {arm} have other settings: those of seed {seeds} are taken")
        kept += [trial for own, trial in members if own == usual]
        failed += [left_out(trial, why) for own, trial in members if own != usual]
    return Kept(kept, failed, warnings)


Asked = tuple[tuple[str, Questions], ...]


def same_questions(trials: Sequence[Trial]) -> Kept:
    """Keep the trials that answered one set of questions: that of the most trials.

    On a tie that of the most arms, then that with the most rows, then that of the first arm by name; a tie is told.
    """
    groups: dict[Asked, list[Trial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: (t.arm, t.seed)):
        groups[tuple(sorted(((s, rows.questions) for s, rows in trial.rows.items()), key=lambda q: q[0]))].append(trial)
    if not groups:
        return Kept([], [], [])

    def weight(asked: Asked) -> tuple[int, int, int]:
        members = groups[asked]
        return len(members), len({t.arm for t in members}), sum(len(q.prompt_ids) for _, q in asked)

    usual = max(groups, key=weight)  # the first of equals: that of the first arm
    tied = [asked for asked in groups if asked != usual and len(groups[asked]) == len(groups[usual])]
    warnings = [
        f"as many trials ({len(groups[asked])}) answered other questions: those of {_arms(groups[usual])} are taken, "
        f"{_arms(groups[asked])} are left out"
        for asked in tied
    ]
    failed = [
        left_out(
            trial,
            f"evaluated on other questions than {'others' if asked in tied else 'most trials'}: "
            f"{_unlike(asked, usual)}; run it again with the study's evaluation settings",
        )
        for asked, members in groups.items()
        if asked != usual
        for trial in members
    ]
    return Kept(groups[usual], failed, warnings)


def _arms(trials: Sequence[Trial]) -> str:
    return names(list(dict.fromkeys(trial.arm for trial in trials)))


def _unlike(asked: Asked, usual: Asked) -> str:
    """In what two sets of questions differ, in words."""
    own, others = dict(asked), dict(usual)
    told = []
    for split in sorted({*own, *others}):
        if split not in own:
            told.append(f"split {split} is missing")
        elif split not in others:
            told.append(f"split {split} is there, which they lack")
        elif own[split] is not others[split]:
            told.append(f"split {split} {_rows_unlike(own[split], others[split])}")
    return ", ".join(told)


def _rows_unlike(own: Questions, others: Questions) -> str:
    missing, more = different_rows(own, others.identity)
    told = []
    if missing:
        told.append(f"lacks {len(missing)} of {len(others.identity)} rows ({row_names(missing)})")
    if more:
        told.append(f"has {len(more)} rows that they lack ({row_names(more)})")
    return " and ".join(told) or "has other texts under the same prompt ids"


def different_rows(
    own: Questions, wanted: Sequence[tuple[str, int]]
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(prompt_id, sample) of `wanted` that are missing, and those that are there beyond it."""
    there, asked = set(own.identity), set(wanted)
    return [row for row in wanted if row not in there], [row for row in own.identity if row not in asked]


def vanished(trials: Sequence[Trial], failed: Sequence[FailedTrial]) -> list[str]:
    """A sentence for each arm of which not one trial is left."""
    there = {trial.arm for trial in trials}
    lost = Counter(trial.arm for trial in failed if trial.arm not in there)
    return [
        f"arm {arm} is in no number: {'its only trial is' if count == 1 else f'all its {count} trials are'} left out"
        for arm, count in sorted(lost.items())
    ]


def common_splits(trials: Sequence[Trial]) -> list[Trial]:
    """The same trials with the splits that all have; as they are if they have none in common."""
    common = set.intersection(*(set(trial.rows) for trial in trials)) if trials else set()
    if not common:
        return list(trials)
    return [
        replace(trial, rows={split: trial.rows[split] for split in trial.rows if split in common}) for trial in trials
    ]
