"""The row of a trial that ``rft run`` runs by itself."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig

from rft.config import quoted
from rft.errors import UserError
from rft.store.names import INTERRUPTED, TRIAL
from rft.study.finished import record_of
from rft.study.identity import name_of, trial_id
from rft.study.jobs import LAUNCHED, may_fork
from rft.study.ledger import Ledger
from rft.study.ledger_file import Unusable
from rft.study.origin import changes
from rft.study.owner import owner
from rft.study.parts import plain
from rft.study.rows import ENDED, Row, State
from rft.study.trial import how_it_ended
from rft.study.versions import versions

BEAT = 2.0
"""Seconds between looks at the ledger while a trial runs."""


@contextmanager
def in_ledger(cfg: DictConfig, folder: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Keep the row of a trial while the block runs it.

    There is none for a trial that a launcher has started, whose row it keeps, for one that is not run to its end, and
    for one whose folder is none of a study. A trial that another process runs is run beside it, without a row.

    Args:
        cfg: the trial's configuration.
        folder: where its record goes.
        overrides: what Hydra was given for it.

    Raises:
        UserError: if the folder is that of the trial with other settings.
    """
    _require_same(cfg, folder)
    further = int(os.environ.get("LOCAL_RANK") or 0) > 0 or LAUNCHED in os.environ
    elsewhere = (folder.name, folder.parent.name) != (name_of(cfg), str(cfg.study))
    if further or elsewhere or str(getattr(cfg.until, "value", cfg.until)) != "evaluation":
        yield
        return
    ledger = Ledger(folder.parent, logging.getLogger("rft").warning)
    given = (*overrides, f"arm={quoted(str(cfg.arm))}")
    row = Row(folder.name, trial_id(cfg), str(cfg.arm), int(cfg.seed), given, forks=may_fork(cfg.strategy))
    with owner(folder.parent) as me:
        ledger.submit([row], {})
        if not ledger.claim([row.name], me, ended=ENDED):
            yield
            return
        pulse = _Pulse(ledger, row.name)
        try:
            with pulse:
                yield
        except BaseException as error:
            told = how_it_ended(error)
            state = State.interrupted if told.startswith(INTERRUPTED) else State.failed
            with suppress(Unusable):  # of a disk that takes no more; it is told by what is raised
                if pulse.cancelled:
                    state, told = State.cancelled, "cancelled"
                ledger.end(row.name, state, told)
            if state is not State.failed:
                study = str(cfg.study)
                way = ["retry", study, row.name] if state is State.cancelled else ["resume", study]
                sys.stderr.write(f"{state.value}; rft {shlex.join(way)} goes on from its last checkpoint\n")
            raise
        ledger.end(row.name, State.done, versions=versions())


def _require_same(cfg: DictConfig, folder: Path) -> None:
    """Refuse a trial that goes on in its folder while its settings have changed, as by another default.

    Raises:
        UserError: with the difference, as far as it is known.
    """
    named = TRIAL.fullmatch(folder.name) is not None and folder.parent.name == str(cfg.study)
    if not named or folder.name == name_of(cfg):
        return
    before = record_of(folder).get("config")
    found = changes(before, plain(cfg)) if isinstance(before, dict) else []
    told = f": {'; '.join(found)}" if found else ""
    raise UserError(
        f"{folder}: the settings of this trial are not those that it was started with{told}; start it as it is now "
        f"with rft run or rft compare, which takes a folder of its own ({name_of(cfg)}), or put back what has changed"
    )


class _Pulse:
    """Tells the ledger that this process is alive, and ends it when the trial is cancelled there.

    Args:
        ledger: the study's.
        name: of the trial.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger, self.name = ledger, name
        self.cancelled = False
        self._over, self._asking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="ledger", daemon=True)

    def __enter__(self) -> None:
        self.ledger.beat({self.name: ("", os.getpid())})
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._asking:
            self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(Unusable):  # for now; the trial does not need it
                if self.ledger.beat({self.name: ("", os.getpid())}):
                    with self._asking:  # not after its end
                        if not self._over.is_set():
                            self.cancelled = True
                            os.kill(os.getpid(), signal.SIGTERM)
                    return
