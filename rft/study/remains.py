"""What is left of a study whose ledger is damaged or gone: its plan, in a file of its own, and what its trials left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rft.store.names import INTERRUPTED, PLAN, RECORD, TRIAL
from rft.store.running import LOCK, is_running
from rft.store.whole import write_whole
from rft.study.rows import Row, State
from rft.study.slots import Demand

_KEPT = ("name", "id", "arm", "seed", "overrides", "forks")


def keep(study: Path, rows: Sequence[Row], notes: Mapping[str, Any]) -> None:
    """Write what no trial's folder says: which trials there are to be, in which order, and what was noted.

    Args:
        study: the study's folder.
        rows: all of its ledger.
        notes: what the ledger keeps of the study as a whole.

    Raises:
        OSError: naming the file; the one that was there stays.
    """
    plan = [
        {name: getattr(row, name) for name in _KEPT}
        | {"cancelled": row.state is State.cancelled, "demand": row.demand and asdict(row.demand)}
        for row in rows
    ]
    write_whole(study / PLAN, json.dumps({"trials": plan, "study": dict(notes)}).encode())


def remains(study: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows and notes that a ledger begins with: all that was planned, each as its folder says that it ended.

    Args:
        study: the study's folder.
    """
    plan, notes = planned(study)
    found = {row.name: row for row in _recorded(study)}
    rows = []
    for row in plan:
        if (there := found.pop(row.name, None)) is None:
            rows.append(row)
            continue
        taken_back = row.state is State.cancelled and there.state is State.interrupted
        state = State.cancelled if taken_back else there.state
        rows.append(replace(there, overrides=row.overrides, forks=row.forks, demand=row.demand, state=state))
    return rows + list(found.values()), notes


def planned(study: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows and notes that :func:`keep` wrote; nothing if that is damaged too."""
    told = _read(study / PLAN)
    try:
        rows = [
            Row(
                **{name: one[name] for name in _KEPT} | {"overrides": tuple(map(str, one["overrides"]))},
                state=State.cancelled if one["cancelled"] else State.queued,
                demand=Demand(**one["demand"]) if one.get("demand") else None,
            )
            for one in told.get("trials", [])
        ]
        return rows, dict(told.get("study", {}))
    except (KeyError, TypeError, ValueError):
        return [], {}


def _recorded(study: Path) -> Iterator[Row]:
    """What the folders say of trials: a record is an end; a lock without one a trial that began."""
    begun = {path.parent.relative_to(study) for name in (RECORD, LOCK) for path in study.glob(f"*/{name}")}
    begun |= {path.parent.relative_to(study) for path in study.glob(f"tuning/*/*/*/{RECORD}")}
    for folder in sorted(begun):
        named = TRIAL.fullmatch(folder.name)
        record = _read(study / folder / RECORD)
        if named is None and "arm" not in record:
            continue
        status, error = str(record.get("status")), str(record.get("error") or "it left no record of its end")
        ended = status in ("done", "failed") and not error.startswith(INTERRUPTED)
        state = State(status) if ended else State.interrupted
        seed = record.get("seed", named["seed"] if named else None)
        yield Row(
            name=folder.as_posix(),
            id=folder.name[-8:] if named else "",
            arm=str(record.get("arm", named["arm"] if named else "")),
            seed=None if seed is None else int(seed),
            overrides=tuple(map(str, record.get("overrides") or ())),
            state=State.running if is_running(study / folder) else state,
            error=None if state is State.done else error,
            versions=record.get("versions"),
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
