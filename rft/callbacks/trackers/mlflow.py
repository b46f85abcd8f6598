"""MLflow: one sqlite file beside the study's trials, which several processes write."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rft.callbacks.trackers.base import LOCAL, REMOTE, Run, Tracker, flat, require
from rft.machine import uncommitted

LONGEST_VALUE = 6000  # characters of a parameter
PARAMETERS = 100  # in one request


@dataclass
class Config:
    """Settings of the MLflow tracker."""

    uri: str | None = None
    """Where runs are kept, as in http://localhost:5000; null: in mlflow.db beside the study's trials. A server's user
    and password are in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""


class MLflow(Tracker):
    """One run a trial, in the experiment of its study."""

    def __init__(self, config: Config) -> None:
        require("mlflow", "mlflow")
        self.config = config
        self.patience = LOCAL if config.uri is None else REMOTE
        self._client: Any = None
        self._id = ""
        self._step = 0
        self._known: set[int] = set()

    def start(self, run: Run) -> None:
        """Begin a run, or find the one of a trial that goes on."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        from mlflow.tracking import MlflowClient

        logging.getLogger("alembic").setLevel(logging.ERROR)
        study = run.folder.absolute().parent
        uri = self.config.uri or f"sqlite:///{study / 'mlflow.db'}"
        # Trials that start together would make its tables together.
        with FileLock(study / ".mlflow.lock"):
            self._client = MlflowClient(uri)
            experiment = self._experiment(run.study, study)
        where = f"tags.`rft.id` = '{run.id}'"
        found = self._client.search_runs([experiment], where, max_results=1) if run.resumed else []
        if found:
            self._id = found[0].info.run_id
            self._known = {one.step for one in self._client.get_metric_history(self._id, "time/seconds")}
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"rft.id": run.id, "rft.stage": run.stage, "rft.tags": ", ".join(run.tags), "rft.arm": run.arm}
        tags |= {f"rft.{name}": str(value) for name, value in run.made.items()}
        tags |= {"mlflow.source.git.commit": str(run.made["commit"])} if run.made.get("commit") else {}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        self._describe(run)

    def _experiment(self, name: str, study: Path) -> str:
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        place = (study / "mlflow").as_uri() if self.config.uri is None else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _describe(self, run: Run) -> None:
        from mlflow.entities import Param

        told = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in flat(run.config).items()]
        for first in range(0, len(told), PARAMETERS):
            self._client.log_batch(self._id, params=told[first : first + PARAMETERS])
        if diff := uncommitted():
            self._client.log_text(self._id, diff, "diff.patch")

    def log(self, row: Mapping[str, float], step: int) -> None:
        """One request a row, of which all is kept or nothing."""
        self._step = step
        if step not in self._known:
            self._send(row, step)

    def _send(self, row: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in row.items()])

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Keep the final test's metrics and mark the run's end."""
        if self._id:
            if metrics:
                self._send(metrics, self._step)
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
