"""What trackers are told of a study as a whole: each stage that its trials share, and the comparison."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from rft.callbacks.trackers.base import Artifact, Run, Tracker
from rft.callbacks.trackers.behind import Behind
from rft.config import build
from rft.config.options import option_like
from rft.errors import UserError
from rft.machine import made_here
from rft.report.records import StudyResults
from rft.report.told import arms_table, comparisons_table, notes, numbers, sentences
from rft.report.write import FIGURES_FOLDER, MARKDOWN_FILE, REPORT_FILE, SUMMARY_FILE
from rft.secrets import without_secrets
from rft.store import Entry
from rft.store.canonical import sha256_of
from rft.store.entry import file_sha256
from rft.store.locking import file_lock
from rft.store.whole import write_whole
from rft.study.lineage import LONGEST, OWN, artifact_of, used
from rft.study.pipeline import STAGES

FOLDER = "comparison"
"""In the report's folder: what trackers keep of the study as a whole."""
COMPARISON = "comparison"
"""The job type of the study's own run."""
TELLING = ".lock"
"""In `FOLDER`: the lock that is held while somebody tells of runs there."""
TOLD = ".told"
"""In a run's folder: its id, how often it was told, and a digest of what."""
WITHOUT = "the report is written all the same, and rft compare tells of it again"


@dataclass(frozen=True, slots=True)
class Telling:
    """How a study is told of: to whom, and where that is kept."""

    study: str
    tracker: Mapping[str, Any]
    """The option with its settings, as the trials have it."""
    folder: Path
    """`FOLDER` of the report."""
    model: str

    def trackers(self, *, stage: bool) -> list[Tracker]:
        """New trackers for one run; for that of a stage, those that are told of stages."""
        found = build(self.tracker).parts()
        return [one for one in found if not stage or one.told_of_stages]


def tell_study(results: StudyResults, summary: Mapping[str, Any], out: Path) -> list[str]:
    """Tell the tracker of the study's trials of its shared stages and of the comparison; what is wrong with it.

    What it has been told already it is not told again; of a report that is another, the same run is.

    Args:
        results: of the study.
        summary: made from them.
        out: the folder of the report, which is written.
    """
    telling = _telling(results, out)
    if telling is None:
        return []
    try:
        if not telling.trackers(stage=False):
            return []
        telling.folder.mkdir(exist_ok=True)
        with file_lock(telling.folder / TELLING):
            if telling.trackers(stage=True):
                _tell_stages(telling, results)
            _tell_comparison(telling, results, summary, out)
    except (UserError, OSError, OmegaConfBaseException) as error:  # the settings of an older record, for one
        return [f"the tracker of the trials is not told of the comparison: {error}"]
    return []


def _telling(results: StudyResults, out: Path) -> Telling | None:
    """To whom, by what most trials have; None if no trial says."""
    nodes = {}
    count: Counter[str] = Counter()
    for trial in results.trials:
        if isinstance(node := trial.config.get("tracker"), Mapping):
            text = json.dumps(node, sort_keys=True)
            nodes[text] = node
            count[text] += 1
    if not count:
        return None
    model = next((trial.config["model"] for trial in results.trials if "model" in trial.config), None)
    name = option_like("model", model) if isinstance(model, Mapping) else None
    return Telling(results.study, nodes[count.most_common(1)[0][0]], out.absolute() / FOLDER, name or "?")


def _tell(telling: Telling, folder: Path, digest: str, told: _Told) -> None:
    """Tell of a run unless it is told; that it is, is kept at the end, so that one that was broken off is told again.

    Args:
        telling: how.
        folder: of the run.
        digest: of all that is told.
        told: what to tell.
    """
    file = folder / TOLD
    kept = _kept(file)
    digest = sha256_of({"content": digest, "tracker": without_secrets(dict(telling.tracker))})
    if kept.get("digest") == digest:
        return
    identity, times = str(kept.get("id") or secrets.token_hex(4)), int(kept.get("times", 0)) + 1
    write_whole(file, json.dumps({"id": identity, "times": times, "digest": None}).encode())
    tracker = Behind(telling.trackers(stage=told.stage != COMPARISON), without=WITHOUT)
    tracker.start(told.run(identity, times, telling, folder))
    try:
        told.tell(tracker, times)
    finally:
        tracker.finish(told.metrics, failed=False)
    if not tracker.lost:
        write_whole(file, json.dumps({"id": identity, "times": times, "digest": digest}).encode())


def _kept(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _Told(ABC):
    """What one run is told."""

    stage: str
    title: str
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any]
    made: Mapping[str, Any]
    notes = ""
    metrics: Mapping[str, float]

    def run(self, identity: str, times: int, telling: Telling, folder: Path) -> Run:
        """Who the run is."""
        return Run(
            id=identity,
            study=telling.study,
            arm=self.stage,
            model=telling.model,
            seed=0,
            stage=self.stage,
            tags=(self.stage, f"model-{telling.model}", *self.tags),
            folder=folder,
            config=without_secrets(dict(self.config)),
            made=self.made,
            resumed=times > 1,
            title=self.title,
            notes=self.notes,
            home=telling.folder.parent,
            anew=True,
        )

    @abstractmethod
    def tell(self, tracker: Tracker, step: int) -> None:
        """All but who it is and how it ends."""


class _Stage(_Told):
    """A stage's result, with what it was made from."""

    def __init__(self, entry: Entry, inputs: Mapping[str, Entry], model: str) -> None:
        self.stage, self.artifact, self.inputs = entry.stage, artifact_of(entry), used(inputs)
        self.title = f"{entry.stage} · {model} · {entry.key[:8]}"
        self.config = {entry.stage: entry.manifest["config"], "inputs": dict(entry.inputs)}
        self.made = {"rft": entry.manifest["rft_version"], "created": entry.manifest["created"]}
        found = {f"{entry.stage}/{name}": value for name, value in _numeric(entry.metrics).items()}
        self.metrics = found | {f"cost/{name}": value for name, value in _numeric(entry.cost).items()}

    def tell(self, tracker: Tracker, step: int) -> None:
        """Inputs and result."""
        for artifact in self.inputs:
            tracker.uses(artifact)
        tracker.makes(self.artifact)


def _numeric(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _tell_stages(telling: Telling, results: StudyResults) -> None:
    """One run for each result of a stage that trials share, in the order in which they depend on one another."""
    entries: dict[str, Entry] = {}
    for trial in results.trials:
        entries |= {use.key: use.entry for use in trial.stages.values() if use.entry is not None}
    shared = [entry for entry in entries.values() if entry.stage in STAGES and entry.stage not in OWN]
    for entry in sorted(shared, key=lambda one: (STAGES.index(one.stage), one.created, one.key)):
        inputs = {name: entries[key] for name, key in entry.inputs.items() if key in entries}
        folder = telling.folder / f"{entry.stage}-{entry.key[:8]}"
        _tell(telling, folder, entry.digest, _Stage(entry, inputs, telling.model))


class _Comparison(_Told):
    """The report: what it says, its files, and the final tests that it is made from."""

    stage = COMPARISON

    def __init__(self, results: StudyResults, summary: Mapping[str, Any], out: Path) -> None:
        self.results, self.summary, self.out = results, summary, out
        self.title = f"{COMPARISON} · {results.study}"
        self.tags = ("settled" if summary["verdict"]["settled"] else "cannot-tell",)
        self.tags += ("incomplete",) if summary["incomplete"] else ()
        arms = {
            name: {"algorithm": arm["algorithm"], "feedback": arm["feedback"], "seeds": arm["seeds"]}
            for name, arm in summary["arms"].items()
        }
        own = {name: summary[name] for name in ("study", "control", "splits", "statistics", "started_alike")}
        self.config = {**own, "arms": arms}
        self.made = without_secrets(made_here())
        self.notes = notes(summary)
        self.metrics = numbers(summary)

    def tell(self, tracker: Tracker, step: int) -> None:
        """Tests, tables, pictures, page and verdict."""
        for trial in self.results.trials:
            if trial.evaluation is not None:
                # Of several studies arms are told apart by names of their own, which no trial's run knows.
                arm = str(trial.config.get("arm", trial.arm))
                tracker.uses(artifact_of(trial.evaluation, arm, trial.seed))
        tracker.table("arms", *arms_table(self.summary), step)
        tracker.table("comparisons", *comparisons_table(self.summary), step)
        for picture in self.figures("*.png"):
            tracker.figure(f"{FIGURES_FOLDER}/{picture.stem}", picture, step)
        tracker.html("report", self.out / REPORT_FILE, step)
        tracker.log({}, step)
        for name, text in sentences(self.summary).items():
            tracker.text(name, text)
        tracker.makes(self.artifact())

    def figures(self, pattern: str) -> Sequence[Path]:
        """The pictures of the report by name."""
        return sorted((self.out / FIGURES_FOLDER).glob(pattern))

    def artifact(self) -> Artifact:
        """The report's files."""
        files = {name: self.out / name for name in (SUMMARY_FILE, MARKDOWN_FILE, REPORT_FILE)}
        files |= {f"{FIGURES_FOLDER}/{path.name}": path for path in self.figures("*.*")}
        sums = {name: file_sha256(path) for name, path in files.items()}
        name = re.sub(r"[^\w.-]", "-", f"report-{self.results.study}", flags=re.ASCII)[:LONGEST]
        metadata = {"stage": COMPARISON, "study": self.results.study, "verdict": self.summary["verdict"]["headline"]}
        return Artifact(name, "report", sha256_of(dict(sums)), files, metadata | {"sha256": sums})


def _tell_comparison(telling: Telling, results: StudyResults, summary: Mapping[str, Any], out: Path) -> None:
    """The study's own run."""
    digest = hashlib.sha256((out / SUMMARY_FILE).read_bytes()).hexdigest()
    _tell(telling, telling.folder, digest, _Comparison(results, summary, out))
