"""What tuning tried and found, from the files it left beside the trials: ``tuning/<arm>.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "tuning"
_DEPTH = 5  # tuning/<arm>/trial-NNN/seed-S/trial.json; an arm may be called "tuning"


def is_tuning_trial(record: Path) -> bool:
    """Whether a record, by its path below the study's folder, is of a tuning trial, which is no trial of an arm."""
    return record.parts[0] == FOLDER and len(record.parts) == _DEPTH


def read_tuning(study_dir: Path, arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The key ``tuning`` of the summary; None if no arm runs with what tuning found.

    Args:
        study_dir: the study's folder under `runs/`.
        arms: the settings of every arm's trials. Tuning whose winner they are not is of another run, and left out.
    """
    found = {}
    for file in sorted((study_dir / FOLDER).glob("*.json")):
        try:
            one = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if one.get("winner") and _runs_with(arms.get(one["arm"], {}), one["winner"]):
            found[one["arm"]] = one
    if not found:
        return None
    first = next(iter(found.values()))
    return {
        **{key: first[key] for key in ("budget", "objective", "split", "sampler")},
        "arms": {arm: _arm(one) for arm, one in found.items()},
        "cost": {arm: {"seconds": sum(dict(_paid(one)).values())} for arm, one in found.items()},
    }


def _runs_with(config: Mapping[str, Any], winner: Mapping[str, Any]) -> bool:
    settings = config.get("algorithm") or {}
    return all(key in settings and settings[key] == value for key, value in winner.items())


def _arm(one: Mapping[str, Any]) -> dict[str, Any]:
    """What decides; the same bits again for the same study."""
    trials = [
        {
            **{key: trial[key] for key in ("number", "settings", "value", "seed")},
            "errors": [seed["error"] for seed in trial["seeds"] if seed["error"]],
            "evaluations": [
                seed["stages"]["evaluation"]["key"] for seed in trial["seeds"] if "evaluation" in seed["stages"]
            ],
        }
        for trial in one["trials"]
    ]
    return {"trials": trials, **{key: one[key] for key in ("best_so_far", "winner", "space")}}


def _paid(one: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Key and seconds of every result that tuning computed; a result that two trials share is paid once."""
    for trial in one["trials"]:
        for seed in trial["seeds"]:
            for stage in seed["stages"].values():
                yield stage["key"], float(stage["seconds"])
