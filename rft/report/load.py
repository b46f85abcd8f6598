"""Read a study: its trials' records and, from the store, the evaluation rows of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rft.errors import UserError
from rft.report.alike import COSMETIC, different_rows, left_out, same_questions, same_settings, vanished
from rft.report.checkpoints import read_checkpoints
from rft.report.records import FailedTrial, StageUse, StudyResults, Trial
from rft.report.rows import LeftOut, Pool, Questions, Rows, read_columns, row_names
from rft.report.tuning import is_tuning_trial, read_tuning
from rft.store import Entry, Problem, Store
from rft.store.names import CHECKPOINTS_FILE, PLAN, RECORD, ROWS_FILE, TRIAL, older_name
from rft.store.running import LOCK, is_running

__all__ = ["FailedTrial", "Rows", "StageUse", "StudyResults", "Trial", "load_study"]

QUESTIONS_FILE = "questions.parquet"
FIELDS: Mapping[str, type] = {"arm": str, "algorithm": str, "seed": int, "stages": dict, "evaluation": str}
"""What a record of a trial that is done holds."""


def load_study(
    study_dir: Path,
    store: Store,
    only: Collection[Path] | None = None,
    *,
    settings: Mapping[Path, Mapping[str, Any]] | None = None,
    tuned: Collection[str] | None = None,
    pool: Pool | None = None,
) -> StudyResults:
    """Read every `trial.json` under `study_dir` and its evaluation rows from `store`.

    A trial that failed, whose rows are not in the store, whose settings are not those of its arm's other seeds, or
    whose rows cannot be compared with the others' (missing, duplicate, or of a value that cannot be) is listed in
    `failed` and enters no number. What had to be decided for that, arms of which nothing is left, and trials whose
    points of training cannot be used are told in `warnings`; so are, without `only`, those that have no record yet.

    Args:
        study_dir: the study's folder under `runs/`.
        store: where the trials' results are.
        only: the folders of the trials that count; all if none are given.
        settings: by a trial's folder, what it has to have been run with; for those that are absent, anything.
        tuned: the arms that the study tunes; all that run with what tuning found, if that is not known.
        pool: what studies that are compared with one another are read with.

    Raises UserError if the folder is missing or holds no trial, or if no trial is usable.
    """
    study_dir = Path(study_dir)
    files = records(study_dir, only)
    reader = _Reader(store, pool or Pool(), settings or {})
    trials: list[Trial] = []
    failed: list[FailedTrial] = []
    studies: Counter[str] = Counter()
    for file in files:
        record = _record(file)
        folder = file.parent.relative_to(study_dir).as_posix()
        try:
            trials.append(reader.trial(record, folder, file.parent.absolute()))
            studies[str(record.get("study") or study_dir.name)] += 1
        except LeftOut as reason:
            failed.append(_failed(record, folder, str(reason)))
    alike = same_settings(trials)
    once, twice = _once(alike.trials)
    usable = same_questions(once)
    failed += alike.failed + twice + usable.failed
    if not usable.trials:
        raise UserError(
            f"no trial in {study_dir} can be compared: {len(failed)} left out, the first ({failed[0].folder}) "
            f"because: {failed[0].error}; mend the cause and run the study again (finished stages are reused)"
        )
    trials_with_points, points_lost = _with_points(usable.trials)
    silent = unrecorded(study_dir) if only is None else []
    return StudyResults(
        study=studies.most_common(1)[0][0],
        trials=trials_with_points,
        failed=tuple(sorted(failed, key=lambda trial: trial.folder)),
        warnings=(*alike.warnings, *usable.warnings, *vanished(usable.trials, failed), *points_lost, *silent),
        tuning=read_tuning(study_dir, {trial.arm: trial.config for trial in usable.trials}, tuned),
    )


def _once(trials: Sequence[Trial]) -> tuple[list[Trial], list[FailedTrial]]:
    """One trial of each arm and seed, the first by folder, and the others: the same settings but for cosmetic ones."""
    kept: dict[tuple[str, int], Trial] = {}
    twice = []
    for trial in sorted(trials, key=lambda trial: trial.folder):
        if kept.setdefault((trial.arm, trial.seed), trial) is not trial:
            why = f"a second trial of arm {trial.arm} with seed {trial.seed}; remove one of the two"
            twice.append(left_out(trial, why))
    return list(kept.values()), twice


def _with_points(trials: Sequence[Trial]) -> tuple[tuple[Trial, ...], list[str]]:
    """The trials by (arm, seed) with their points of training, and a warning for each whose points cannot be used."""
    found, told = [], []
    for trial in sorted(trials, key=lambda trial: (trial.arm, trial.seed)):
        asked = {split: frozenset(rows.prompt_ids) for split, rows in trial.rows.items()}
        try:
            points = read_checkpoints(trial.evaluation.path / CHECKPOINTS_FILE, asked) if trial.evaluation else ()
        except LeftOut as reason:
            told.append(f"the points of training of {trial.folder} are left out: {reason}")
            points = ()
        found.append(replace(trial, checkpoints=points))
    return tuple(found), told


def unrecorded(study_dir: Path) -> list[str]:
    """A sentence for each trial of a study that was started and has no record; tuning and shared stages have none."""
    found = [*study_dir.glob(f"*/{LOCK}"), *study_dir.glob(f"{older_name('*', '*')}/{LOCK}")]
    marks = sorted(mark for mark in found if not (mark.parent / RECORD).exists())
    return [
        f"{mark.parent.relative_to(study_dir).as_posix()} "
        f"{'is running' if is_running(mark.parent) else 'has no record: ended early, or not run to its final test'}"
        for mark in marks
    ]


def records(study_dir: Path, only: Collection[Path] | None = None) -> list[Path]:
    """The records of a study's trials, those of tuning left out; `only` those in some folders.

    Raises:
        UserError: if there is none.
    """
    how = f"run its trials first: rft run -m study={study_dir.name} algorithm=sft,ppo,dpo seed=0,1,2"
    if not study_dir.is_dir():
        raise UserError(f"there is no study in {study_dir}; {how}")
    found = sorted(f for f in study_dir.rglob(RECORD) if only is None or f.parent.absolute() in only)
    files = [f for f in found if not is_tuning_trial(f.relative_to(study_dir))]
    if not files:
        if (study_dir / PLAN).exists():
            how = f"rft status {study_dir.name} shows where they stand, rft resume {study_dir.name} goes on"
        raise UserError(f"no trial has ended in {study_dir} (no {RECORD} below it); {how}")
    return files


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"status": "failed", "error": f"{RECORD} cannot be read ({error})"}
    if not isinstance(record, dict):
        return {"status": "failed", "error": f"{RECORD} holds no JSON object"}
    return record


def _failed(record: Mapping[str, Any], folder: str, why: str) -> FailedTrial:
    """What a record that cannot be used still says about its trial; its folder says the rest."""
    seed, arm = record.get("seed"), record.get("arm")
    if not isinstance(arm, str):
        named = TRIAL.fullmatch(folder)
        arm = named["arm"] if named else folder.partition("/")[0]
    return FailedTrial(arm, seed if isinstance(seed, int) else None, folder, why)


def _require_fields(record: Mapping[str, Any]) -> None:
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise LeftOut(f"{RECORD} lacks {', '.join(missing)}")
    for name, kind in FIELDS.items():
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise LeftOut(f"{RECORD}: {name} is {str(record[name])[:40]!r}, no {kind.__name__}")
    for name, use in record["stages"].items():
        if not isinstance(use, dict) or not isinstance(use.get("key"), str) or not isinstance(use.get("digest"), str):
            raise LeftOut(f"{RECORD}: stages.{name} has no key and digest")
    if not isinstance(record.get("config") or {}, dict):
        raise LeftOut(f"{RECORD}: config is no object")


class _Reader:
    """Makes trials from records; what many of them share is read once."""

    def __init__(self, store: Store, pool: Pool, settings: Mapping[Path, Mapping[str, Any]]) -> None:
        self.store, self.pool, self.settings = store, pool, settings
        self._entries: dict[tuple[str, str], Entry | None] = {}
        self._wanted: dict[tuple[str, tuple[str, ...], int], Mapping[str, Sequence[tuple[str, int]]]] = {}
        self._complete: set[tuple[Any, ...]] = set()

    def trial(self, record: Mapping[str, Any], folder: str, path: Path) -> Trial:
        """The trial of a record.

        Raises:
            LeftOut: saying why it cannot be used.
        """
        if record.get("status") != "done":
            raise LeftOut(record.get("error") or f"status is {record.get('status')!r}, not 'done'")
        _require_fields(record)
        config = record.get("config") or {}
        if other := _first_difference(config, self.settings.get(path, {})):
            raise LeftOut(f"{other} is not what the study.yaml has now; run the study again to compute it anew")
        entry = self._evaluation(record["evaluation"])
        stages = {name: self._stage_use(name, use, entry) for name, use in sorted(record["stages"].items())}
        rows = self.pool.read(entry.path / ROWS_FILE, _longest(config))
        self._require_complete(rows, stages.get("questions"), config)
        if "reward_model" in stages:
            _require_proxy(rows)
        return Trial(
            arm=record["arm"],
            algorithm=record["algorithm"],
            seed=record["seed"],
            stages=stages,
            rows=rows,
            overrides=tuple(map(str, record.get("overrides") or ())),
            config=config,
            evaluation=entry,
            folder=folder,
            made=made if isinstance(made := record.get("made"), dict) else None,
        )

    def _evaluation(self, key: str) -> Entry:
        try:
            entry = self.store.inspect("evaluation", key)
        except ValueError as error:
            raise LeftOut(f"{RECORD}: evaluation: {error}") from error
        if isinstance(entry, Problem):
            raise LeftOut(f"its evaluation is corrupt: {entry.file} {entry.reason}; run the trial again")
        if entry is None:
            raise LeftOut(
                f"its evaluation {key[:16]} is not in the store {self.store.root}; "
                "run the trial again, or set RFT_STORE to the store it was run with"
            )
        return entry

    def _stage_use(self, stage: str, use: Mapping[str, Any], evaluation: Entry) -> StageUse:
        """The store knows what computing cost; the trial knows only what it waited, little for a ready result."""
        key = use["key"]
        if (stage, key) not in self._entries:
            try:
                self._entries[stage, key] = evaluation if evaluation.key == key else self.store.peek(stage, key)
            except ValueError as error:
                raise LeftOut(f"{RECORD}: stages.{stage}: {error}") from error
        entry = self._entries[stage, key]
        cost = entry.cost if entry else {}
        return StageUse(
            key=key,
            digest=use["digest"],
            # A run that was killed and went on: the entry's clock is that of the last process, training's is of all.
            seconds=max(
                float(cost.get("seconds", use.get("seconds") or 0.0)), float(cost.get("seconds_training", 0.0))
            ),
            cpu_seconds=cost.get("cpu_seconds"),
            peak_rss_bytes=cost.get("peak_rss_bytes"),
            computed=bool(use.get("computed")),
            entry=entry,
        )

    def _require_complete(
        self, rows: Mapping[str, Rows], questions: StageUse | None, config: Mapping[str, Any]
    ) -> None:
        """Compare the rows with the questions that were to be asked, where the store still has these.

        Without this the rows that most trials have would pass for all, if most trials lack the same ones.
        """
        evaluation = config.get("evaluation") or {}
        splits, samples = evaluation.get("splits"), evaluation.get("samples_per_prompt")
        if questions is None or not isinstance(splits, list) or not isinstance(samples, int):
            return
        request = (questions.key, tuple(map(str, splits)), samples)
        seen = (request, tuple((split, rows[split].questions) for split in sorted(rows)))
        if seen in self._complete:
            return
        for split, wanted in self._asked(questions, *request[1:]).items():
            if split not in rows:
                raise LeftOut(f"{ROWS_FILE}: split {split} is missing; run the trial again")
            _require_rows(split, rows[split].questions, wanted)
        self._complete.add(seen)

    def _asked(
        self, questions: StageUse, splits: tuple[str, ...], samples: int
    ) -> Mapping[str, Sequence[tuple[str, int]]]:
        """Split → (prompt_id, sample) of all rows that an evaluation makes; empty if the questions are gone."""
        request = (questions.key, splits, samples)
        if request not in self._wanted:
            path = questions.file(QUESTIONS_FILE)
            asked = read_columns(path, ("split", "prompt_id")).to_pylist() if path else []
            self._wanted[request] = {
                split: [(row["prompt_id"], s) for row in asked if row["split"] == split for s in range(samples)]
                for split in (splits if path else ())
            }
        return self._wanted[request]


def _require_rows(split: str, own: Questions, wanted: Sequence[tuple[str, int]]) -> None:
    missing, more = different_rows(own, wanted)
    if missing:
        raise LeftOut(
            f"{ROWS_FILE}: split {split}: {len(missing)} of {len(wanted)} rows are missing: {row_names(missing)}; "
            "run the trial again"
        )
    if more:
        raise LeftOut(
            f"{ROWS_FILE}: split {split}: {len(more)} rows are of no question of the study: {row_names(more)}"
        )


def _require_proxy(rows: Mapping[str, Rows]) -> None:
    """Rows may lack a proxy in a study without a reward model only."""
    for split, own in rows.items():
        if np.isnan(own.proxy).all():
            raise LeftOut(
                f"{ROWS_FILE}: split {split}: proxy is NaN throughout, while the trial has a reward model; "
                "run the trial again"
            )


def _longest(config: Mapping[str, Any]) -> float:
    """Tokens of a response at most, as far as the settings tell."""
    task = config.get("task")
    found = task.get("response_tokens") if isinstance(task, dict) else None
    return found if isinstance(found, int) else float("inf")


def _first_difference(own: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> str:
    """``key=value`` of the first setting that is another; one that only one of the two has is of another release."""
    for key in sorted(own.keys() & wanted.keys()):
        if not above and key in COSMETIC:
            continue
        if isinstance(own[key], dict) and isinstance(wanted[key], dict):
            if found := _first_difference(own[key], wanted[key], f"{above}{key}."):
                return found
        elif own[key] != wanted[key]:
            return f"{above}{key}={own[key]}"
    return ""
