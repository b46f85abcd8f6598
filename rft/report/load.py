"""Read a study: its trials' records and, from the store, the evaluation rows of each.

Dimension: `M` rows of one split, sorted by (prompt_id, sample), so that row m of every trial answers the same
prompt with the same sample number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rft.errors import UserError
from rft.evaluation.metrics import prompt_means
from rft.report.tuning import is_tuning_trial, read_tuning
from rft.report.wording import brief
from rft.store import Entry, Store
from rft.store.entry import file_sha256

FloatArray = npt.NDArray[np.float64]

TRIAL_FILE = "trial.json"
ROWS_FILE = "evaluation.parquet"
SPLIT_ORDER = ("test", "ood", "validation", "train")
COLUMNS = (
    "split", "prompt_id", "sample", "prompt", "response", "gold", "proxy", "kl", "length", "truncated",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """Evaluation rows of one trial on one split; every field has length M."""

    prompt_ids: tuple[str, ...]
    samples: tuple[int, ...]
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    gold: FloatArray  # probability in [0, 1]
    proxy: FloatArray  # reward model's score; all NaN if the study has none
    kl: FloatArray  # nats per sequence against the SFT reference
    length: FloatArray  # counted response tokens
    truncated: npt.NDArray[np.bool_]

    @property
    def identity(self) -> tuple[tuple[str, int], ...]:
        """(prompt_id, sample) of every row: equal for trials that answered the same questions."""
        return tuple(zip(self.prompt_ids, self.samples, strict=True))

    def per_prompt(self, values: FloatArray) -> FloatArray:
        """Means [N] of `values` [M] over the samples of each prompt, in the order of prompt_id."""
        ids, index = np.unique(np.array(self.prompt_ids), return_inverse=True)
        return prompt_means(values, index.astype(np.int64), len(ids))


@dataclass(frozen=True, slots=True)
class StageUse:
    """A stage's result as one trial used it; seconds, cpu_seconds and peak_rss_bytes are of computing it.

    `entry` is None if the store no longer has the result: its numbers are then missing, the trial's are not.
    """

    key: str
    digest: str
    seconds: float
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    computed: bool
    entry: Entry | None = None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the stage measured about its own result; empty if that is not known."""
        return self.entry.metrics if self.entry else {}

    def file(self, name: str) -> Path | None:
        """A small file of the result; None if it is not there or not what the stage wrote."""
        if self.entry is None or name not in self.entry.manifest["files"]:
            return None
        path = self.entry.path / name
        try:
            sound = file_sha256(path) == self.entry.manifest["files"][name]["sha256"]
        except OSError:
            return None
        return path if sound else None


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished (arm, seed) with its rows by split."""

    arm: str
    algorithm: str
    seed: int
    stages: Mapping[str, StageUse]
    rows: Mapping[str, Rows]
    overrides: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FailedTrial:
    """A trial that is in no number of the report, and why."""

    arm: str
    seed: int | None
    folder: str
    error: str


@dataclass(frozen=True, slots=True)
class StudyResults:
    """All trials of a study, sorted by (arm, seed), and those left out."""

    study: str
    trials: tuple[Trial, ...]
    failed: tuple[FailedTrial, ...]
    tuning: Mapping[str, Any] | None = None
    """What tuning tried and found, as in the summary; None if no arm was tuned."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that every trial was evaluated on: test first, then ood, then the others."""
        common = set.intersection(*(set(trial.rows) for trial in self.trials))
        return tuple(sorted(common, key=lambda s: (SPLIT_ORDER.index(s) if s in SPLIT_ORDER else 9, s)))

    def arm(self, name: str) -> tuple[Trial, ...]:
        """The trials of an arm by seed."""
        return tuple(trial for trial in self.trials if trial.arm == name)


def load_study(study_dir: Path, store: Store, only: Collection[Path] | None = None) -> StudyResults:
    """Read every `trial.json` under `study_dir` and its evaluation rows from `store`.

    A trial that failed, whose rows are not in the store, whose settings are not those of its arm's other seeds, or
    whose rows cannot be compared with the others' (missing, duplicate or non-finite) is listed in `failed` and enters
    no number.

    Args:
        study_dir: the study's folder under `runs/`.
        store: where the trials' results are.
        only: the folders of the trials that count; all if none are given.

    Raises UserError if the folder is missing or holds no trial, or if no trial is usable.
    """
    study_dir = Path(study_dir)
    how = f"run its trials first: rft run -m study={study_dir.name} algorithm=sft,ppo,dpo seed=0,1,2"
    if not study_dir.is_dir():
        raise UserError(f"there is no study in {study_dir}; {how}")
    files = sorted(f for f in study_dir.rglob(TRIAL_FILE) if only is None or f.parent.absolute() in only)
    files = [f for f in files if not is_tuning_trial(f.relative_to(study_dir))]
    if not files:
        raise UserError(f"no trial has ended in {study_dir} (no {TRIAL_FILE} below it); {how}")
    costs = {entry.key: entry for entry in store.entries()}
    trials: dict[tuple[str, int], Trial] = {}
    failed: list[FailedTrial] = []
    studies: Counter[str] = Counter()
    for file in files:
        record = _record(file)
        folder = file.parent.relative_to(study_dir).as_posix()
        try:
            trial = _trial(record, store, costs)
            if (trial.arm, trial.seed) in trials:
                raise _LeftOut(f"a second trial of arm {trial.arm} with seed {trial.seed}; remove one of the two")
            trials[trial.arm, trial.seed] = trial
            studies[str(record.get("study") or study_dir.name)] += 1
        except _LeftOut as reason:
            seed = record.get("seed")
            arm = str(record.get("arm") or folder)
            failed.append(FailedTrial(arm, seed if isinstance(seed, int) else None, folder, str(reason)))
    alike, other = _same_settings(list(trials.values()))
    usable, different = _same_questions(alike)
    failed += other + different
    if not usable:
        raise UserError(
            f"no trial in {study_dir} can be compared: {len(failed)} left out, the first ({failed[0].folder}) "
            f"because: {failed[0].error}; mend the cause and run the study again (finished stages are reused)"
        )
    return StudyResults(
        study=studies.most_common(1)[0][0],
        trials=tuple(sorted(usable, key=lambda trial: (trial.arm, trial.seed))),
        failed=tuple(sorted(failed, key=lambda trial: trial.folder)),
        tuning=read_tuning(study_dir, {trial.arm: trial.config for trial in usable}),
    )


class _LeftOut(Exception):
    """Why a trial cannot be used."""


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"status": "failed", "error": f"{TRIAL_FILE} cannot be read ({error})"}
    if not isinstance(record, dict):
        return {"status": "failed", "error": f"{TRIAL_FILE} holds no JSON object"}
    return record


def _trial(record: Mapping[str, Any], store: Store, costs: Mapping[str, Entry]) -> Trial:
    if record.get("status") != "done":
        raise _LeftOut(record.get("error") or f"status is {record.get('status')!r}, not 'done'")
    missing = [name for name in ("arm", "algorithm", "seed", "stages", "evaluation") if name not in record]
    if missing:
        raise _LeftOut(f"{TRIAL_FILE} lacks {', '.join(missing)}")
    try:
        entry = store.find("evaluation", str(record["evaluation"]))
    except ValueError as error:
        raise _LeftOut(f"{TRIAL_FILE}: evaluation: {error}") from error
    if entry is None:
        raise _LeftOut(
            f"its evaluation {str(record['evaluation'])[:16]} is not in the store {store.root}; "
            "run the trial again, or set RFT_STORE to the store it was run with"
        )
    return Trial(
        arm=str(record["arm"]),
        algorithm=str(record["algorithm"]),
        seed=int(record["seed"]),
        stages={name: _stage_use(use, costs.get(use["key"])) for name, use in sorted(record["stages"].items())},
        rows=_read_rows(entry.path / ROWS_FILE),
        overrides=tuple(map(str, record.get("overrides") or ())),
        config=record.get("config") or {},
    )


def _stage_use(use: Mapping[str, Any], entry: Entry | None) -> StageUse:
    """The store knows what computing cost; the trial knows only what it waited, little for a ready result."""
    cost = entry.cost if entry else {}
    return StageUse(
        key=str(use["key"]),
        digest=str(use["digest"]),
        seconds=float(cost.get("seconds", use.get("seconds") or 0.0)),
        cpu_seconds=cost.get("cpu_seconds"),
        peak_rss_bytes=cost.get("peak_rss_bytes"),
        computed=bool(use.get("computed")),
        entry=entry,
    )


def _read_rows(path: Path) -> dict[str, Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _LeftOut(f"{ROWS_FILE} cannot be read ({brief(str(error))})") from error
    absent = sorted(set(COLUMNS) - set(table.column_names))
    if absent:
        raise _LeftOut(f"{ROWS_FILE} has no column {', '.join(absent)}")
    if table.num_rows == 0:
        raise _LeftOut(f"{ROWS_FILE} has no rows")
    columns = {name: table.column(name).to_pylist() for name in COLUMNS}
    order = sorted(
        range(table.num_rows),
        key=lambda m: (columns["split"][m], columns["prompt_id"][m], columns["sample"][m]),
    )
    by_split: dict[str, list[int]] = {}
    for m in order:
        by_split.setdefault(columns["split"][m], []).append(m)
    return {split: _rows(columns, picked, split) for split, picked in by_split.items()}


def _rows(columns: Mapping[str, Sequence[Any]], picked: Sequence[int], split: str) -> Rows:
    def text(name: str) -> tuple[str, ...]:
        return tuple(str(columns[name][m]) for m in picked)

    def numbers(name: str) -> FloatArray:
        return np.array([columns[name][m] for m in picked], dtype=np.float64)

    rows = Rows(
        prompt_ids=text("prompt_id"),
        samples=tuple(int(columns["sample"][m]) for m in picked),
        prompts=text("prompt"),
        responses=text("response"),
        gold=numbers("gold"),
        proxy=numbers("proxy"),
        kl=numbers("kl"),
        length=numbers("length"),
        truncated=np.array([bool(columns["truncated"][m]) for m in picked]),
    )
    twice = [key for key, count in Counter(rows.identity).items() if count > 1]
    if twice:
        raise _LeftOut(f"{ROWS_FILE}: split {split}: prompt {twice[0][0]}, sample {twice[0][1]} is there twice")
    for name, values in (
        ("gold", rows.gold),
        ("kl", rows.kl),
        ("length", rows.length),
        ("proxy", rows.proxy),
    ):
        if not np.isfinite(values).all() and not (name == "proxy" and np.isnan(values).all()):
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise _LeftOut(f"{ROWS_FILE}: split {split}: {name} of prompt {rows.prompt_ids[bad]} is {values[bad]}")
    return rows


def _settings(trial: Trial) -> str:
    """What the seeds of an arm have in common: all that decides results but the seed."""
    cosmetic = {"seed", "study", "arm", "until", "tracker"}
    kept = {key: value for key, value in trial.config.items() if key not in cosmetic}
    return json.dumps(kept, sort_keys=True, default=str)


def _same_settings(trials: list[Trial]) -> tuple[list[Trial], list[FailedTrial]]:
    """Keep, in each arm, the trials with the most common settings; on a tie, the lowest seed's."""
    usual = {
        arm: Counter(_settings(t) for t in sorted(trials, key=lambda t: t.seed) if t.arm == arm).most_common(1)[0][0]
        for arm in {trial.arm for trial in trials}
    }
    why = "its settings are not those of the arm's other seeds; give the arm another name, or run them again alike"
    left_out = [
        FailedTrial(t.arm, t.seed, f"{t.arm}/seed-{t.seed}", why) for t in trials if _settings(t) != usual[t.arm]
    ]
    return [trial for trial in trials if _settings(trial) == usual[trial.arm]], left_out


def _same_questions(trials: list[Trial]) -> tuple[list[Trial], list[FailedTrial]]:
    """Keep the trials that answered the most common set of questions; on a tie, the first arm's."""
    asked = [tuple(sorted((split, rows.identity) for split, rows in trial.rows.items())) for trial in trials]
    if not asked:
        return [], []
    usual = Counter(asked).most_common(1)[0][0]
    rows = {split: len(identity) for split, identity in usual}
    left_out = []
    for trial, questions in zip(trials, asked, strict=True):
        if questions != usual:
            own = {split: len(identity) for split, identity in questions}
            left_out.append(
                FailedTrial(
                    trial.arm,
                    trial.seed,
                    f"{trial.arm}/seed-{trial.seed}",
                    f"evaluated on other questions than most trials (rows {own}, most have {rows}); "
                    "run it again with the study's evaluation settings",
                )
            )
    return [t for t, questions in zip(trials, asked, strict=True) if questions == usual], left_out
