"""The row of a trial that ``rft run`` runs by itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig

from rft.config import quoted
from rft.store.names import INTERRUPTED
from rft.study.identity import name_of, trial_id
from rft.study.launch import LAUNCHED, may_fork
from rft.study.ledger import Ledger, Unusable
from rft.study.owner import owner
from rft.study.rows import ENDED, Row, State
from rft.study.trial import how_it_ended
from rft.study.versions import versions


@contextmanager
def in_ledger(cfg: DictConfig, folder: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Keep the row of a trial while the block runs it.

    There is none for a trial that a launcher has started, whose row it keeps, for one that is not run to its end, and
    for one whose folder is none of a study. A trial that another process runs is run beside it, without a row.

    Args:
        cfg: the trial's configuration.
        folder: where its record goes.
        overrides: what Hydra was given for it.
    """
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
        ledger.beat({row.name: os.getpid()})
        try:
            yield
        except BaseException as error:
            told = how_it_ended(error)
            with suppress(Unusable):  # of a disk that takes no more; it is told by what is raised
                ledger.end(row.name, State.interrupted if told.startswith(INTERRUPTED) else State.failed, told)
            raise
        ledger.end(row.name, State.done, versions=versions())
