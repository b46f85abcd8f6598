"""Weights & Biases: one run a trial, group = study; online, or offline beside the trial."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any

from rft.callbacks.trackers.base import LOCAL, STEP, Artifact, Histogram, Run, Tracker
from rft.callbacks.trackers.behind import PATIENCE, tell
from rft.callbacks.trackers.reach import unreachable
from rft.callbacks.trackers.service import FOLDER, end_service, own_places, surround
from rft.callbacks.trackers.upload import UNSENT, first_line, mark_uploaded, upload, useless
from rft.config import TrackerConfig, number
from rft.machine import uncommitted

LONGEST_TAG = 64  # W&B refuses longer ones
ENVIRONMENT = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""By the values of WANDB_MODE that ask for less than a setting does."""
TABLE = "run_table"
"""W&B's type of the artifact of a table."""
RESOLVED = "resolved"
"""In the configuration of a run under an agent: what stands for the values that the sweep has given."""
ASKED_EVERY = 30.0
"""Seconds between two questions whether the server of an online run is there."""
NOWHERE = "http://127.0.0.1:9"
"""Asked in place of the address of a certain provider's machines, which W&B looks for on every machine."""


@lru_cache
def _digest(path: Path, _size: int, _changed: int) -> str:
    """What W&B knows a file's content by. `rft compare` tells of several stages that each use the start policy."""
    with path.open("rb") as file:
        return b64encode(hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()).decode()


class ModeEnum(str, Enum):
    """Whether anything is contacted."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


class AxisEnum(str, Enum):
    """What charts are drawn against, as long as nothing else is chosen in W&B."""

    step = "trainer/global_step"
    prompts = "budget/prompts"
    generated_tokens = "budget/generated_tokens"
    flops = "budget/flops"
    seconds = "time/seconds"
    labels = "budget/labels"


@dataclass
class Config(TrackerConfig):
    """Settings of the W&B tracker."""

    mode: ModeEnum = ModeEnum.online
    """online needs an account; offline keeps the run beside the trial and contacts nothing; disabled keeps none.
    WANDB_MODE=offline or disabled in the environment turns online off."""
    project: str = "rft"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
    axis: AxisEnum = AxisEnum.step
    """What charts are drawn against: step, prompts, generated_tokens, flops, seconds or labels. Each can be chosen in
    W&B too."""
    silence_seconds: float = number(120.0, at_least=0)
    """Longest time without an answer of the server, while rows come; after it an online run goes on offline."""
    upload_seconds: float = number(120.0, at_least=0)
    """Longest wait at a trial's end for what is still to be uploaded, as long as the server answers."""


class Wandb(Tracker):
    """Weights & Biases.

    Online, the server has `PATIENCE` seconds to begin a run, and as long to take its end; else the run is kept offline,
    which is told in a line. W&B writes every row of an online run to this machine too.
    """

    lineage = True

    def __init__(self, config: Config) -> None:
        self.config = config
        mode = config.mode.value
        self.mode = ENVIRONMENT.get(os.environ.get("WANDB_MODE", ""), mode) if mode == "online" else mode
        self.patience = LOCAL + config.upload_seconds
        self._about: Run | None = None
        self._run: Any = None
        self._told: list[Callable[[], None]] = []
        self._from = 0
        self._asked = 0.0
        self._silent: float | None = None

    @property
    def online(self) -> bool:
        """Whether rows go to a server."""
        return self.mode == "online"

    def parts(self) -> Sequence[Tracker]:
        """Itself, unless it is disabled."""
        return [] if self.mode == "disabled" else [self]

    def start(self, run: Run) -> None:
        """Begin the trial's run, or go on with it: offline as a second part with the same id."""
        self._about = run
        if run.anew:
            shutil.rmtree(run.folder / FOLDER, ignore_errors=True)
        surround(run.folder)
        import wandb

        own_places(run.folder)

        if self.online:
            wandb.setup(wandb.Settings(silent=True))
            base = str(wandb.setup().settings.base_url)
            if reason := useless(base):
                self._say_offline(reason)
        before = set(run.folder.glob("wandb/run-*"))
        try:
            self._begin()
        except Exception as error:
            if not self.online:
                raise
            for left in set(run.folder.glob("wandb/run-*")) - before:
                shutil.rmtree(left, ignore_errors=True)  # it holds nothing, and would be uploaded as a run
            self._go_offline(first_line(error))

    def _begin(self) -> None:
        import wandb

        run = self._about
        assert run is not None
        online: dict[str, Any] = {"init_timeout": PATIENCE, "finish_timeout": PATIENCE, "finish_timeout_raises": True}
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,  # of the working folder; the checkout of rft is what counts
            git_commit=run.made.get("commit"),
            x_stats_coreweave_metadata_base_url=NOWHERE,
            **(online if self.online else {}),
        )
        self._run = wandb.init(
            id=run.id,
            project=self.config.project,
            entity=self.config.entity,
            name=run.name,
            group=run.study,
            job_type=run.stage,
            notes=run.notes or None,
            tags=list(dict.fromkeys(tag[:LONGEST_TAG] for tag in run.tags)),
            dir=run.folder,
            mode="online" if self.online else "offline",
            resume="allow" if self.online else None,
            settings=settings,
        )
        self._run.config.update(self._beside_swept({**run.config, "made": run.made}), allow_val_change=True)
        self._from = int(self._run.starting_step)
        self._asked = time.monotonic()
        if self.online:
            (self._place / UNSENT).touch()  # should this process be killed, what the server lacks is known to be here
        self._define()
        if run.made.get("dirty") and (diff := uncommitted()):
            (Path(self._run.dir) / "diff.patch").write_text(diff, encoding="utf-8")
            self._run.save(str(Path(self._run.dir) / "diff.patch"), base_path=self._run.dir, policy="now")

    @property
    def _place(self) -> Path:
        """The run's folder."""
        return Path(self._run.settings.sync_dir)

    def _beside_swept(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration, with what W&B would not take, since an agent has set it, under one more name.

        A sweep over algorithms has ``algorithm: dpo``, and locks it; its settings would be lost.
        """
        swept = {name for name in config if name in self._run.config} if os.environ.get("WANDB_SWEEP_ID") else set()
        apart = {name: config[name] for name in swept if config[name] != self._run.config[name]}
        return {name: value for name, value in config.items() if name not in swept} | (
            {RESOLVED: apart} if apart else {}
        )

    def _define(self) -> None:
        """Tell which metrics only grow, and what the others are drawn against."""
        for axis in AxisEnum:
            self._run.define_metric(axis.value, summary="max")
        for group in ("train/*", "rollout/*"):
            self._run.define_metric(group, step_metric=self.config.axis.value)
        self._run.define_metric("budget/*", step_metric=self.config.axis.value, summary="max")

    def _tell(self, do: Callable[[], None]) -> None:
        """Do something with the run that is done again if it must be begun again offline."""
        if self.online:
            self._told.append(do)
        try:
            do()
        except Exception as error:  # the process beside this one that uploads has ended
            if not self.online:
                raise
            self._go_offline(first_line(error))

    def _silence(self) -> str | None:
        """Why a server that has not answered for as long as it may is of no use; None if it is, or may be yet."""
        limit, now = self.config.silence_seconds, time.monotonic()
        if not self.online or now - self._asked < min(ASKED_EVERY, limit):
            return None
        reason, self._asked = unreachable(str(self._run.settings.base_url), PATIENCE), now
        if reason is None:
            self._silent = None
        elif self._silent is None:
            self._silent = now
        return reason if self._silent is not None and now - self._silent >= limit else None

    def log(self, row: Mapping[str, float], step: int) -> None:
        """A row, under the optimiser's steps; of an online run that goes on, those that the server lacks."""
        if reason := self._silence():
            self._go_offline(reason)
        self._tell(lambda: self._send(row, step))

    def _send(self, row: Mapping[str, Any], step: int) -> None:
        if step >= self._from:
            self._run.log({**row, STEP: step}, step=step)

    def _send_late(self, row: Mapping[str, Any], step: int) -> None:
        """A result, whether the server has its row or not: W&B takes nothing for a step that is behind."""
        self._run.log({**row, STEP: step}, step=max(step, self._from))

    def uses(self, artifact: Artifact) -> None:
        """The artifact as an input; kept as a version of its own, if nobody has yet."""
        self._keep(artifact, used=True)

    def makes(self, artifact: Artifact) -> None:
        """The artifact as an output."""
        self._keep(artifact, used=False)

    def _keep(self, artifact: Artifact, *, used: bool) -> None:
        import wandb

        made = wandb.Artifact(artifact.name, type=artifact.kind, metadata=dict(artifact.metadata))
        for name, path in artifact.files.items():
            # Either way an entry's digest is that of its content, so that it makes no other version. What is not by
            # reference must be a copy: W&B removes the files that it was given, whether it could upload them or not.
            if self.by_reference(path):
                (entry,) = made.add_reference(path.absolute().as_uri(), name=name, checksum=False)
                about = path.stat()
                entry.digest = _digest(path, about.st_size, about.st_mtime_ns)
            else:
                made.add_file(str(path), name=name, skip_cache=True)
        made.finalize()
        aliases = [artifact.key[:16]] if used else ["latest", artifact.key[:16]]
        self._tell(lambda: self._publish(made, aliases, used=used))

    def _publish(self, made: Any, aliases: Sequence[str], *, used: bool = False) -> None:
        """Write an artifact into the run's records, from where W&B uploads it at once or by ``wandb sync``.

        This is what ``use_artifact`` and ``log_artifact`` of a new artifact come to. Offline the former is refused;
        online both ask the server first, however long it takes, and what they send is in no record. Nor are the files
        removed once they are sent: a run that must be begun again offline is made from them.
        """
        publish = self._run._interface.publish_artifact
        publish(self._run, made, aliases, is_user_created=used, use_after_commit=used)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table, and the artifact that W&B wants of each."""
        kept = [list(row) for row in rows]
        self._tell(lambda: self._send_table(name, list(columns), kept, step))

    def _send_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        import wandb
        from wandb.sdk.artifacts._internal_artifact import InternalArtifact

        table: Any = wandb.Table(columns=columns, data=rows)  # type: ignore[arg-type]
        made = InternalArtifact(f"run-{self._run.id}-{name}", TABLE)
        made.add(table, name)
        made.finalize()
        self._publish(made, ["latest"])
        table.bind_to_run(self._run, name, max(step, self._from))  # else log would ask the server for the artifact
        self._send_late({name: table}, step)

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """A histogram with its own bins."""
        import numpy as np
        import wandb

        told = (np.asarray(histogram.counts), np.asarray(histogram.edges))
        self._tell(lambda: self._send({name: wandb.Histogram(np_histogram=told)}, step))

    def figure(self, name: str, path: Path, step: int) -> None:
        """A picture."""
        import wandb

        self._tell(lambda: self._send_late({name: wandb.Image(str(path))}, step))

    def html(self, name: str, path: Path, step: int) -> None:
        """A page, as it is."""
        import wandb

        self._tell(lambda: self._send_late({name: wandb.Html(str(path), inject=False)}, step))

    def _go_offline(self, reason: str) -> None:
        """Begin again offline, with all that was told so far."""
        import wandb

        end_service()
        wandb.setup(wandb.Settings(silent=True))
        self._say_offline(reason)
        self._begin()
        for do in self._told:
            do()
        self._told = []

    def _say_offline(self, reason: str) -> None:
        assert self._about is not None
        self.mode = "offline"
        tell(f"W&B: {reason}; the run goes on offline, in {self._about.folder / FOLDER}: `rft sync` uploads it")

    def text(self, name: str, text: str) -> None:
        """A text in the summary."""
        self._tell(lambda: self._run.summary.update({name: text}))

    def finish(self, metrics: Mapping[str, float], failed: bool) -> None:
        """Add the final test's metrics to the last row and end the run, or a second trial in the process joins it."""
        if self._run is None:
            return
        if metrics:
            self._tell(lambda: self._run.log(dict(metrics)))
        code = 1 if failed else 0
        try:
            self._end(code)
        except TimeoutError:
            end_service()
            self._upload(self._place, at_once=not failed)
        except Exception as error:
            if not self.online:
                raise
            self._go_offline(first_line(error))
            self._end(code)
        else:
            if self.online:
                mark_uploaded(self._place)

    def _end(self, code: int) -> None:
        """End the run.

        Raises:
            TimeoutError: if it is online and not all is uploaded in time. W&B keeps to its own limit but while it
                uploads an artifact.
        """
        if not self.online:
            self._run.finish(exit_code=code)
            return
        ended: Future[None] = Future()

        def end() -> None:
            try:
                ended.set_result(self._run.finish(exit_code=code))
            except BaseException as error:
                ended.set_exception(error)

        Thread(target=end, name="wandb-finish", daemon=True).start()
        ended.result(2 * PATIENCE)

    def _upload(self, folder: Path, *, at_once: bool) -> None:
        """Send a run that ended before all was uploaded, as long as the server answers; of one that failed say so.

        Who has pressed Ctrl-C does not wait for it, and a launcher ends a process that takes longer.
        """
        told = f"the run is whole in {folder}: `rft sync` uploads it"
        if not at_once:
            tell(f"W&B: not all is uploaded; {told}")
            return
        if reason := unreachable(str(self._run.settings.base_url), PATIENCE):
            tell(f"W&B: {reason}; {told}")
            return
        if reason := upload(folder, str(self._run.settings.base_url), limit=self.config.upload_seconds):
            tell(f"W&B: {reason}; {told}")
