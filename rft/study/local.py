"""The trials of studies as they lie on this machine: what the ledger, the folders and the store hold of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.errors import UserError, nearest
from rft.store import Store
from rft.store.names import CURVES_FILE, HISTORY_FILE, PLAN, RECORD, older_name
from rft.study.finished import record_of
from rft.study.ledger_file import FILE
from rft.study.reading import as_found, rows_of
from rft.study.remains import remains
from rft.study.rows import Row, State

History = list[dict[str, float]]
"""One row of metrics for each Lightning epoch of a training, with its ``step``."""


@dataclass(frozen=True, slots=True)
class LocalTrial:
    """A trial of an arm in a study's folder."""

    study: str
    folder: Path
    row: Row
    record: Mapping[str, Any]
    """Its ``trial.json``; empty if there is none that can be read."""

    @property
    def name(self) -> str:
        """``STUDY/TRIAL``, which no other has."""
        return f"{self.study}/{self.row.name}"

    @property
    def algorithm(self) -> str:
        """The option's name; empty while no record tells it."""
        return str(self.record.get("algorithm", ""))

    def metrics(self, store: Store) -> dict[str, float]:
        """Of the final test, as the store has them; empty if it is not done.

        Args:
            store: is asked for those of a trial of before records held them.
        """
        if self.row.state is not State.done:
            return {}
        found = self.record.get("metrics")
        if not isinstance(found, dict):
            found = _of_entry(store, "evaluation", self.record.get("evaluation"), "metrics") or {}
        return {str(name): _number(value) for name, value in found.items()}

    def history(self) -> History:
        """The rows of its training; those so far, if it is not done. Empty if there are none, as of a control.

        Raises:
            UserError: if its file is damaged.
        """
        return history_of(self.folder, self.row.state)

    def clock(self, store: Store) -> list[Mapping[str, float]]:
        """Seconds and money that were spent at each row of the history; empty if the store does not hold them."""
        policy = self.record.get("stages", {}).get("policy", {}) if self.row.state is State.done else {}
        cost = _of_entry(store, "policy", policy.get("key"), "cost") or {}
        return list(cost.get("clock", ()))


def _of_entry(store: Store, stage: str, key: object, what: str) -> Mapping[str, Any] | None:
    try:
        entry = store.peek(stage, str(key)) if key else None
    except ValueError:  # a damaged record
        return None
    return None if entry is None else getattr(entry, what)


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def history_of(folder: Path, state: State) -> History:
    """The history of a trial in a folder.

    Of one that is done, what the store has; of any other, what its training has told so far: a history that lies there
    is that of an earlier start.

    Raises:
        UserError: if the file is damaged.
    """
    whole, growing = folder / HISTORY_FILE, folder / CURVES_FILE
    if state is not State.done and (growing.exists() or state is State.running):
        return _growing(growing)
    try:
        found = json.loads(whole.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{whole}: cannot be read: {error}; run the trial again") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) and "step" in row for row in found):
        raise UserError(f"{whole}: holds no rows of a history; run the trial again")
    return found


def _growing(file: Path) -> History:
    """The rows of a file that is being written: its last line may be half there."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows: History = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study: with a ledger, or what one is made from, or the record of a trial."""
    if any((folder / name).exists() for name in (FILE, PLAN)):
        return True
    return any(next(folder.glob(f"{trial}/{RECORD}"), None) for trial in ("*", older_name("*", "*")))


def study_folders(given: Sequence[str], runs: Path) -> list[Path]:
    """The folders of studies by name under `runs` or by folder; of all under `runs`, if none are given.

    Raises:
        UserError: for what is no study.
    """
    there = sorted(folder for folder in runs.glob("*") if folder.is_dir() and is_study(folder))
    if not given:
        return there
    found = []
    for name in given:
        folder = next((one for one in (runs / name, Path(name)) if one.is_dir() and is_study(one)), None)
        if folder is None:
            hint = nearest(name, [one.name for one in there]) if there else "start one with rft run -m or rft compare"
            raise UserError(f"{name}: no study under {runs}; {hint}")
        found.append(folder)
    return list(dict.fromkeys(found))


def trials_of(study: Path, warn: Callable[[str], None]) -> list[LocalTrial]:
    """The trials of a study, in the order of its plan; nothing is written.

    Args:
        study: its folder.
        warn: told in a line what is wrong with the ledger.
    """
    if any((study / name).exists() for name in (FILE, PLAN)):
        rows = rows_of(study, warn)
    else:  # a folder of trials alone, such as a copy
        rows = as_found(study, remains(study)[0])
    rows = [row for row in rows if row.is_trial]
    rows += _older(study, {row.name for row in rows})
    name = study.absolute().name
    return [LocalTrial(name, study / row.name, row, record_of(study / row.name)) for row in rows]


def _older(study: Path, known: set[str]) -> Iterator[Row]:
    """Trials in folders as they were before there was a ledger."""
    for file in sorted(study.glob(f"{older_name('*', '*')}/{RECORD}")):
        name, record = file.parent.relative_to(study).as_posix(), record_of(file.parent)
        if name in known or "arm" not in record:
            continue
        state = State.done if record.get("status") == "done" else State.failed
        overrides = tuple(map(str, record.get("overrides") or ()))
        yield Row(name, "", str(record["arm"]), record.get("seed"), overrides, state, error=record.get("error"))


def find_trial(given: str, runs: Path, warn: Callable[[str], None]) -> LocalTrial:
    """The one trial that is meant by ``STUDY/TRIAL``, its folder, or a name that is in one study alone.

    A trial's name is that of its folder; ``ARM-sSEED`` is enough where no other one has it.

    Raises:
        UserError: if there is none, or several.
    """
    path = Path(given)
    if (path / RECORD).exists() and is_study(path.absolute().parent):
        folder = path.absolute()
        return next(one for one in trials_of(folder.parent, warn) if one.folder.absolute() == folder)
    study, _, name = given.rpartition("/")
    trials = [one for folder in study_folders([study] if study else [], runs) for one in trials_of(folder, warn)]
    meant = [one for one in trials if name in (one.row.name, f"{one.row.arm}-s{one.row.seed}")]
    if not meant:
        valid = {one.row.name: one.name for one in trials}
        hint = nearest(name, valid) if trials else f"there are no trials under {runs}"
        raise UserError(f"{given}: no such trial; {hint if len(hint) < 300 else 'rft runs ls lists all'}")
    if len(meant) > 1:
        raise UserError(f"{given}: several trials are called so; give one of {', '.join(one.name for one in meant)}")
    return meant[0]
