"""How far a study is: which of its planned trials ended, run now, or are not there yet."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.store.names import RECORD, older_name, trial_name
from rft.store.running import LOCK, is_running

if TYPE_CHECKING:
    from rft.study.jobs import Job
    from rft.study.study import Plan

LISTED = 4


def standing(planned: Plan) -> dict[str, Any] | None:
    """``{"planned", "finished", "running", "missing"}``, None if every trial has finished.

    ``running`` and ``missing`` are lists of ``{"arm", "seed"}``. Planned trials that are in none of the three have
    failed.
    """
    finished, running, missing = 0, [], []
    for job in planned.trials:
        status = _status(job.folder)
        name = {"arm": job.arm, "seed": job.seed}
        if status == "done":
            finished += 1
        elif is_running(job.folder):
            running.append(name)
        elif status is None:
            missing.append(name)
    if finished == len(planned.trials):
        return None
    return {"planned": len(planned.trials), "finished": finished, "running": running, "missing": missing}


def as_found(planned: Plan) -> Plan:
    """A plan by what is there: for a trial without a folder, that of the same arm and seed with other settings.

    One of before names held a digest may have the same settings; whoever reads the record compares them.
    """
    jobs = [(job, _place(job)) for job in planned.trials]
    settings = {place: planned.settings[job.folder] for job, place in jobs if job.folder in planned.settings}
    return replace(planned, trials=tuple(replace(job, folder=place) for job, place in jobs), settings=settings)


def _place(job: Job) -> Path:
    study, seed = job.folder.parent, job.seed or 0
    if job.folder.exists():
        return job.folder
    alike = sorted(study.glob(f"{glob.escape(trial_name(job.arm, seed, ''))}*"))
    folders = (study / older_name(job.arm, seed), *alike)
    found = [folder for folder in folders if (folder / RECORD).exists() or (folder / LOCK).exists()]
    return found[0] if found else job.folder


def _status(folder: Path) -> str | None:
    """The status in a trial's record; None if it has none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "damaged"
    return str(record.get("status")) if isinstance(record, dict) else "damaged"


def told(state: Mapping[str, Any]) -> str:
    """How far a study is, in a sentence."""
    parts = [f"{state['finished']} of {state['planned']} planned trials have finished"]
    for key, words in (("running", "running"), ("missing", "not there")):
        if trials := state[key]:
            shown = [f"{one['arm']} seed {one['seed']}" for one in trials[:LISTED]]
            more = [f"{len(trials) - LISTED} more"] if len(trials) > LISTED else []
            parts.append(f"{words}: {', '.join(shown + more)}")
    failed = state["planned"] - state["finished"] - len(state["running"]) - len(state["missing"])
    return "; ".join(parts + ([f"failed: {failed}"] if failed else []))
