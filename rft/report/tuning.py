"""What tuning tried and found, from the files it left beside the trials: ``tuning/<arm>.json``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rft.budget import RESOURCES

FOLDER = "tuning"
_DEPTH = 5  # tuning/<arm>/trial-NNN/seed-S/trial.json; an arm may be called "tuning"


def is_tuning_trial(record: Path) -> bool:
    """Whether a record, by its path below the study's folder, is of a tuning trial, which is no trial of an arm."""
    return record.parts[0] == FOLDER and len(record.parts) == _DEPTH


def read_tuning(
    study_dir: Path, arms: Mapping[str, Mapping[str, Any]], tuned: Collection[str] | None = None
) -> dict[str, Any] | None:
    """The key ``tuning`` of the summary; None if no arm runs with what tuning found, or has failed there.

    Tuning of another run is left out: one that did not come to its end, whose winner is not what the arm's trials run
    with, or that found none while the arm has trials.

    Args:
        study_dir: the study's folder under `runs/`.
        arms: the settings of every arm's trials.
        tuned: the arms that the study tunes; any, if that is not known.
    """
    found = {}
    for file in sorted((study_dir / FOLDER).glob("*.json")):
        try:
            one = json.loads(file.read_text(encoding="utf-8"))
            arm, ended = one["arm"], len(one["trials"]) == one["budget"] and one.keys() >= {"winner", "objective"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        ended = ended and (tuned is None or arm in tuned)
        if ended and (_runs_with(arms.get(arm, {}), one["winner"]) if one["winner"] else arm not in arms):
            found[arm] = one
    if not found:
        return None
    first = next(iter(found.values()))
    return {
        **{key: first[key] for key in ("budget", "objective", "split", "sampler")},
        "stopping": first.get("stopping", "none"),
        "arms": {arm: _arm(one) for arm, one in found.items()},
        "cost": {arm: _cost(one) for arm, one in found.items()},
    }


def _runs_with(config: Mapping[str, Any], winner: Mapping[str, Any]) -> bool:
    settings = config.get("algorithm") or {}
    return all(key in settings and settings[key] == value for key, value in winner.items())


def _arm(one: Mapping[str, Any]) -> dict[str, Any]:
    """What decides; the same bits again for the same study."""
    trials = [
        {
            **{key: trial[key] for key in ("number", "settings", "value", "seed")},
            "stopped": trial.get("stopped"),
            "errors": [seed["error"] for seed in trial["seeds"] if seed["error"]],
            "evaluations": [
                seed["stages"]["evaluation"]["key"] for seed in trial["seeds"] if "evaluation" in seed["stages"]
            ],
        }
        for trial in one["trials"]
    ]
    return {"trials": trials, **{key: one.get(key) for key in ("best_so_far", "winner", "failure", "space")}}


def _cost(one: Mapping[str, Any]) -> dict[str, float]:
    """What is known of the training of an arm's tuning trials, by resource; what two trials share is paid once."""
    paid = dict(_used(one)).values()
    return {resource: float(sum(used.get(resource, 0.0) for used in paid)) for resource in RESOURCES}


def _used(one: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Key of every training and what it used: its seconds alone where the store could not tell the rest."""
    for trial in one["trials"]:
        for seed in trial["seeds"]:
            for name, stage in seed["stages"].items():
                if name != "evaluation":
                    yield stage["key"], stage.get("used") or {"seconds": stage["seconds"]}
