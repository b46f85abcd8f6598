"""MLflow: one sqlite file beside the study's trials, which several processes write."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rft.callbacks.trackers.base import LOCAL, REMOTE, Artifact, Histogram, Run, Tracker, flat, require
from rft.config import TrackerConfig
from rft.machine import uncommitted

LONGEST_VALUE = 6000  # characters of a parameter
LONGEST_NAME = 250  # of it
LONGEST_DIGEST = 36  # characters of a dataset's
PARAMETERS, METRICS = 100, 1000  # in one request
UNKNOWN = re.compile(r"[^\w. :/-]")
"""Characters that no name of a metric or a parameter may have."""


@dataclass
class Config(TrackerConfig):
    """Settings of the MLflow tracker."""

    uri: str | None = None
    """Where runs are kept, as in http://localhost:5000; null: in mlflow.db beside the study's trials. A server's user
    and password are in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""


class MLflow(Tracker):
    """One run a trial, in the experiment of its study.

    Inputs are dataset inputs of the run, results and tables its artifacts, and histograms, of which MLflow has none,
    ``histograms.json`` among these.
    """

    lineage = True

    def __init__(self, config: Config) -> None:
        require("mlflow", "mlflow")
        self.config = config
        self.patience = LOCAL if config.uri is None else REMOTE
        self._client: Any = None
        self._id = ""
        self._step = 0
        self._known: set[int] = set()
        self._histograms: dict[str, list[dict[str, Any]]] = {}

    def start(self, run: Run) -> None:
        """Begin a run, or find the one of a trial that goes on."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        from mlflow.tracking import MlflowClient

        logging.getLogger("alembic").setLevel(logging.ERROR)
        study = run.study_folder
        uri = self.config.uri or f"sqlite:///{study / 'mlflow.db'}"
        # Trials that start together would make its tables together.
        with FileLock(study / ".mlflow.lock"):
            self._client = MlflowClient(uri)
            experiment = self._experiment(run.study, study)
        where = f"tags.`rft.id` = '{run.id}'"
        found = self._client.search_runs([experiment], where, max_results=1) if run.resumed else []
        if found and run.anew:
            self._client.delete_run(found[0].info.run_id)
        elif found:
            self._id = found[0].info.run_id
            self._known = {one.step for one in self._client.get_metric_history(self._id, "time/seconds")}
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"rft.id": run.id, "rft.stage": run.stage, "rft.tags": ", ".join(run.tags), "rft.arm": run.arm}
        tags |= {f"rft.{name}": str(value) for name, value in run.made.items()}
        tags |= {"mlflow.source.git.commit": str(run.made["commit"])} if run.made.get("commit") else {}
        tags |= {"mlflow.note.content": run.notes} if run.notes else {}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        self._describe(run)

    def _experiment(self, name: str, study: Path) -> str:
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        place = (study / "mlflow").as_uri() if self.config.uri is None else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _describe(self, run: Run) -> None:
        from mlflow.entities import Param

        named = {UNKNOWN.sub("_", name)[:LONGEST_NAME]: str(value) for name, value in flat(run.config).items()}
        told = [Param(name, value[:LONGEST_VALUE]) for name, value in named.items()]
        for first in range(0, len(told), PARAMETERS):
            self._client.log_batch(self._id, params=told[first : first + PARAMETERS])
        if run.made.get("dirty") and (diff := uncommitted()):
            self._client.log_text(self._id, diff, "diff.patch")

    def log(self, row: Mapping[str, float], step: int) -> None:
        """One request a row, of which all is kept or nothing; one that is too long for that takes several."""
        self._step = step
        if step not in self._known:
            self._send(row, step)

    def _send(self, row: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        told = [Metric(UNKNOWN.sub("_", name), value, now, step) for name, value in row.items()]
        for first in range(0, len(told), METRICS):
            self._client.log_batch(self._id, metrics=told[first : first + METRICS])

    def text(self, name: str, text: str) -> None:
        """A tag."""
        self._client.set_tag(self._id, UNKNOWN.sub("_", name), text[:LONGEST_VALUE])

    def uses(self, artifact: Artifact) -> None:
        """A dataset that is the run's input; of the same name and digest there is one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        files = {name: path.absolute().as_uri() for name, path in artifact.files.items()}
        source = json.dumps({"key": artifact.key, "files": files})
        profile = json.dumps(dict(artifact.metadata), default=str)
        dataset = Dataset(artifact.name, artifact.key[:LONGEST_DIGEST], "rft", source, profile=profile)
        known = self._client.get_run(self._id).inputs.dataset_inputs
        if all((one.dataset.name, one.dataset.digest) != (dataset.name, dataset.digest) for one in known):
            self._client.log_inputs(self._id, [DatasetInput(dataset, [InputTag("mlflow.data.context", artifact.kind)])])

    def makes(self, artifact: Artifact) -> None:
        """A folder among the run's artifacts, with all that is known of it in ``artifact.json``."""
        large = {name: path for name, path in artifact.files.items() if self.by_reference(path)}
        for name, path in artifact.files.items():
            if name not in large:
                self._client.log_artifact(self._id, str(path), "/".join([artifact.name, *name.split("/")[:-1]]))
        told = {"kind": artifact.kind, "key": artifact.key, "metadata": dict(artifact.metadata)}
        told["references"] = {name: path.absolute().as_uri() for name, path in large.items()}
        self._client.log_dict(self._id, told, f"{artifact.name}/artifact.json")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table among the run's artifacts, in place of one that the run had: MLflow by itself would add to that."""
        import pandas as pd

        file = f"{name}.json"
        if all(one.path != file for one in self._client.list_artifacts(self._id, file.rpartition("/")[0] or None)):
            self._client.log_table(self._id, pd.DataFrame(rows, columns=list(columns)), file)
        else:  # as `mlflow.load_table` reads it
            self._client.log_dict(self._id, {"columns": list(columns), "data": [list(row) for row in rows]}, file)

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Kept until the end; of a run that goes on, all come again."""
        told = {"step": step, "counts": histogram.counts, "edges": histogram.edges}
        self._histograms.setdefault(name, []).append(told)

    def figure(self, name: str, path: Path, step: int) -> None:
        """A file among the run's artifacts."""
        self._client.log_artifact(self._id, str(path), name)

    def html(self, name: str, path: Path, step: int) -> None:
        """A file among the run's artifacts."""
        self._client.log_artifact(self._id, str(path), name)

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Keep the final test's metrics and mark the run's end."""
        if self._id:
            if self._histograms:
                self._client.log_dict(self._id, self._histograms, "histograms.json")
            if metrics:
                self._send(metrics, self._step)
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
