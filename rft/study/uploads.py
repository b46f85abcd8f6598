"""The W&B runs of studies that lie on this machine, in the order in which they have to be uploaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft.callbacks.trackers.upload import Target, is_empty, is_uploaded, kept_runs, run_id, upload
from rft.store.running import is_running
from rft.study.compared import COMPARISON, FOLDER, TELLING
from rft.study.local import is_study, study_folders
from rft.study.pipeline import STAGES

PLACE = "wandb"
"""W&B's folder in that of a run."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One run, of which a part lies on this machine for each process that told of it."""

    name: str
    """``STUDY/TRIAL``, ``STUDY/comparison`` or ``STUDY/comparison/STAGE-KEY``."""
    stage: str
    folder: Path
    parts: tuple[Path, ...]
    """In the order of their start. All rows of one are in the next one too."""

    @property
    def waiting(self) -> tuple[Path, ...]:
        """Parts to upload: none that a later one, which was uploaded, has replaced."""
        done = [number for number, part in enumerate(self.parts) if is_uploaded(part)]
        return tuple(part for part in self.parts[done[-1] + 1 if done else 0 :] if not is_empty(part))

    @property
    def running(self) -> bool:
        """Whether somebody is at work on it: a trial, or who compares the study."""
        if self.stage == "policy":
            return is_running(self.folder)
        return is_running(self.folder if self.stage == COMPARISON else self.folder.parent, TELLING)


def uploads(studies: Sequence[Path]) -> list[Upload]:
    """All runs: those of shared stages, each after what it is made from, those of trials by their start, comparisons.

    Args:
        studies: their folders, or those of reports.
    """
    return sorted((one for study in studies for one in _of(study)), key=_place)


def _place(one: Upload) -> tuple[int, str, str]:
    if one.stage in STAGES and one.stage != "policy":
        return STAGES.index(one.stage), one.parts[0].name.partition("run-")[2], one.name
    return len(STAGES) + (one.stage == COMPARISON), one.parts[0].name.partition("run-")[2], one.name


def _of(study: Path) -> Iterator[Upload]:
    for place in sorted(study.rglob(PLACE)):
        folder = place.parent
        below = folder.relative_to(study)
        ids: dict[str, list[Path]] = {}
        for run in kept_runs(place):
            ids.setdefault(run_id(run), []).append(run)
        for parts in ids.values():
            name = f"{study.absolute().name}/{below.as_posix()}"
            yield Upload(name, _stage(below), folder, tuple(parts))


def _stage(below: Path) -> str:
    """What the run in a folder below its study's computes."""
    if below.parts[:1] != (FOLDER,):
        return "policy"
    return below.parts[1].rpartition("-")[0] if len(below.parts) > 1 else COMPARISON


def folders(given: Sequence[str], runs: Path) -> list[Path]:
    """Folders of studies, and of reports with a comparison, by name under `runs` or by folder.

    Raises:
        UserError: for what is neither.
    """
    found: list[Path] = []
    for name in given:
        reports = [one for one in (runs / name, Path(name)) if (one / FOLDER).is_dir() and not is_study(one)]
        found += reports[:1] or study_folders([name], runs)
    return list(dict.fromkeys(found))


def send(one: Upload, base: str, target: Target) -> str | None:
    """Upload what of a run is not; why that ended before all was; None if all was.

    Args:
        one: the run.
        base: address of the server.
        target: where it goes.
    """
    for part in one.waiting:
        if reason := upload(part, base, target):
            return reason
    return None


def as_json(all_runs: Sequence[Upload]) -> str:
    """What there is to upload, for programs."""
    told = [
        {
            "run": run_id(one.parts[0]),
            "name": one.name,
            "job_type": one.stage,
            "parts": [str(part) for part in one.parts],
            "waiting": [str(part) for part in one.waiting],
            "running": one.running,
        }
        for one in all_runs
    ]
    return json.dumps(told, indent=1)
