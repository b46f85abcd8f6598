"""One trial: its folder, its record, its tracker, its end."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from rft.callbacks.trackers.base import Tracker
from rft.callbacks.trackers.behind import Behind
from rft.config import build
from rft.errors import UserError
from rft.feedback.unread import stood_in
from rft.machine import made_here
from rft.secrets import scrubbed
from rft.store import Entry, Store
from rft.store.names import CURVES_FILE, DISTRIBUTIONS_FILE, HISTORY_FILE, INTERRUPTED, RECORD, ROWS_FILE
from rft.store.running import at_work
from rft.store.space import DAMAGED, FULL
from rft.store.whole import write_whole
from rft.study.lineage import tell_results, used
from rft.study.parts import plain
from rft.study.pipeline import Pipeline
from rft.study.tracked import TRACKED, run_of
from rft.study.versions import versions

UNWRITABLE = FULL | DAMAGED | {errno.EACCES, errno.EPERM}
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, and did."""


def write_json(path: Path, data: Any) -> None:
    """Write beside and rename into place."""
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False).encode())


@contextmanager
def named_faults(folder: Path) -> Iterator[None]:
    """Let a trial's folder that cannot be written be the user's fault, told by name.

    Raises:
        UserError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else ""
        if error.errno not in UNWRITABLE or not Path(place).absolute().is_relative_to(folder.absolute()):
            raise
        raise UserError(
            f"{place} cannot be written: {error.strerror}; what the store has is kept. Make room or make it writable, "
            "or start from another folder, then start again"
        ) from error


class Trial:
    """Runs one checked configuration in a folder and leaves ``trial.json`` there, done or failed."""

    def __init__(self, cfg: DictConfig, folder: Path, store: Store, overrides: Sequence[str] = ()) -> None:
        self.cfg, self.folder, self.store, self.overrides = cfg, folder, store, list(overrides)
        self._trackers: Sequence[Tracker] = ()
        self.tracker: Behind | None = None
        self.pipeline = Pipeline(self.cfg, store, folder, self._make_tracker)

    def _make_tracker(self) -> Tracker:
        if self.tracker is None:
            self.tracker = Behind(self._trackers)
            self.tracker.start(run_of(self.cfg, self.folder))
            for artifact in used(self.pipeline.policy_inputs()):
                self.tracker.uses(artifact)
        return self.tracker

    def _record(self, pipeline: Pipeline, status: str, error: str | None, evaluation: str | None) -> dict[str, Any]:
        return {
            "study": str(self.cfg.study),
            "arm": str(self.cfg.arm),
            "algorithm": str(self.cfg.algorithm.name),
            "seed": int(self.cfg.seed),
            "status": status,
            "error": error and scrubbed(error),
            "overrides": self.overrides,
            "stages": pipeline.done,
            "evaluation": evaluation,
            "config": plain(self.cfg),
            "made": self._made(pipeline),
            "environment": made_here(),
            "versions": versions(),
        }

    def _made(self, pipeline: Pipeline) -> dict[str, Any] | None:
        """What made the results: this process or, if it found all of them, what the record says that is there."""
        if any(stage["computed"] for stage in pipeline.done.values()):
            return made_here()
        try:
            made = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))["made"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return made if isinstance(made, dict) else None

    def run(self) -> dict[str, Any] | None:
        """Compute what is missing; returns the record (None in a DDP child).

        Raises:
            UserError: for what the user can mend; the record then says failed.
        """
        until = self.cfg.until.value if hasattr(self.cfg.until, "value") else str(self.cfg.until)
        self.folder.mkdir(parents=True, exist_ok=True)
        pipeline = self.pipeline
        if not (child := int(os.environ.get("LOCAL_RANK", "0")) > 0):
            self._trackers = build(self.cfg.tracker).parts()
        try:
            entry = pipeline.run(until)
            if entry is not None:
                self._tell(pipeline, entry, until)
        except BaseException as error:
            if not child and until == "evaluation":
                line = how_it_ended(error)
                with suppress(OSError):  # of a disk that takes no more; it is told by what is raised
                    write_json(self.folder / RECORD, self._record(pipeline, "failed", line, None))
            self._finish({}, failed=True)  # last: a launcher does not wait long for a tracker
            raise
        if entry is None:
            return None
        metrics = entry.metrics if until == "evaluation" else {}
        metrics = {k: float(v) for k, v in metrics.items()}
        record = self._record(pipeline, "done", None, entry.key if until == "evaluation" else None)
        self._finish(metrics, failed=False)
        if until == "evaluation":
            self._copy(pipeline.policy, HISTORY_FILE)
            self._copy(entry, ROWS_FILE)
            write_json(self.folder / RECORD, record | {"metrics": metrics})
            with suppress(OSError):  # the history is there
                for name in (CURVES_FILE, DISTRIBUTIONS_FILE):
                    (self.folder / name).unlink(missing_ok=True)
        # One that pauses goes on in the same run, and what a tracker has lost is told again if it is started again.
        if pipeline.budget.share >= 1 and not (self.tracker is not None and self.tracker.lost):
            (self.folder / TRACKED).unlink(missing_ok=True)  # last: so does one that is killed before
        return record

    def _copy(self, entry: Entry | None, name: str) -> None:
        """Lay a small result of the store into the folder, which is whole without it."""
        if entry is not None and (entry.path / name).exists():
            write_whole(self.folder / name, (entry.path / name).read_bytes())

    def _finish(self, metrics: dict[str, float], *, failed: bool) -> None:
        if self.tracker is not None:
            self.tracker.finish(metrics, failed)

    def _tell(self, pipeline: Pipeline, entry: Entry, until: str) -> None:
        """Tell the tracker what came out."""
        if until == "evaluation":
            self._track_found(pipeline, entry)
        if self.tracker is not None:
            tell_results(self.tracker, pipeline, entry if until == "evaluation" else None)

    def _was_told(self, evaluation: Entry) -> bool:
        """Whether a process before this one has told the same tracker of these results."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            told: bool = record["evaluation"] == evaluation.key and record["config"]["tracker"] == plain(
                self.cfg.tracker
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return told

    def _track_found(self, pipeline: Pipeline, evaluation: Entry) -> None:
        """Make the tracked run whole of a policy that was not trained here.

        A process before this one may have been killed after training, when its tracker had lost rows; or another trial
        has the same policy, and this one's run is still to be told of it.
        """
        policy = pipeline.policy
        if not self._trackers or policy is None or policy.key in self.store.computed:
            return
        if not (self.folder / TRACKED).exists() and self._was_told(evaluation):
            return
        from rft.callbacks.distributions import Distributions
        from rft.callbacks.training import track

        measured = Distributions()
        measured.read(self.folder / DISTRIBUTIONS_FILE)
        rows = json.loads((policy.path / HISTORY_FILE).read_text(encoding="utf-8"))
        track(self._make_tracker(), rows, policy.cost.get("clock", []), measured.at)


@contextmanager
def ending_when_asked() -> Iterator[None]:
    """Let SIGTERM and the first Ctrl-C end training with its step, and any other stage at once; the second ends all.

    Raises:
        SystemExit: with TERMINATED, on SIGTERM outside of training.
        KeyboardInterrupt: on Ctrl-C outside of training, and on the second one.
    """

    def end(_number: int, _frame: object) -> None:
        if signal.getsignal(signal.SIGTERM) is end:  # else a Trainer has put its own before it, and ends with the step
            raise SystemExit(TERMINATED)

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        if signal.getsignal(signal.SIGTERM) is end:
            raise KeyboardInterrupt
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            sys.stderr.write("\nends with this step and keeps its checkpoint; Ctrl-C once more ends it now\n")
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's job in the background has it ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_it_ended(error: BaseException) -> str:
    """What the record says of how a trial ended."""
    if isinstance(error, UserError):
        return str(error)
    if was_interrupted(error):
        return f"{INTERRUPTED}start it again and it goes on from its last checkpoint"
    if isinstance(error, SystemExit):
        coded = error.code is None or isinstance(error.code, int)
        return f"ended by itself with exit code {error.code or 0}" if coded else f"ended by itself: {error.code}"
    return traceback.format_exc()


def was_interrupted(error: BaseException) -> bool:
    """Whether somebody asked the process to end."""
    # Lightning turns SIGTERM into an exception of its own, which it does not export, and Ctrl-C into exit code 1.
    if type(error).__name__ == "SIGTERMException" or (isinstance(error, SystemExit) and error.code == TERMINATED):
        return True
    asked = isinstance(error, KeyboardInterrupt)
    return asked or (isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt))


def run_trial(cfg: DictConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Run a trial and say in a few lines what came out."""
    # Its retries are told line by line; what they come to is told by the error.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    store = Store.default()
    with named_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with named_faults(folder), at_work(folder):
        try:
            record = Trial(cfg, folder, store, overrides).run()
        except SystemExit as end:
            if was_interrupted(end) and not end.code:  # Lightning's has no code, which would pass for success
                raise SystemExit(TERMINATED) from end
            raise
    if record is None:
        return
    console = Console(highlight=False, soft_wrap=True)
    computed = [name for name, stage in record["stages"].items() if stage["computed"]]
    what = f"computed {', '.join(computed)}" if computed else "nothing to compute, all stages were there"
    console.print(f"{cfg.arm} seed {cfg.seed}: {what}", markup=False)
    labels = record["stages"].get("preferences", {}).get("key")
    if (found := store.peek("preferences", labels) if labels else None) and found.metrics.get("people_unread"):
        people, unread, pairs = (found.metrics[name] for name in ("people_pairs", "people_unread", "pairs"))
        console.print(f"labels: {stood_in(people, unread, pairs)}", markup=False)
    if record["evaluation"]:
        entry = store.find("evaluation", record["evaluation"])
        assert entry is not None
        figures = "  ".join(f"{k.removeprefix('eval/')} {float(v):.3f}" for k, v in entry.metrics.items())
        console.print(figures, markup=False)
        console.print(f"record: {folder / RECORD}", markup=False)


logging.getLogger("rft").addHandler(logging.NullHandler())
