"""What a study's ledger holds of a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from rft.study.slots import Demand


class State(str, Enum):
    """Where a trial stands."""

    queued = "queued"
    """It waits for a launcher."""
    running = "running"
    """A process is at work on it."""
    done = "done"
    """It ended and left a record."""
    failed = "failed"
    """It raised, or ended with an exit code other than 0; `rft retry` starts it again."""
    interrupted = "interrupted"
    """It was killed, or stopped with its launcher; `rft resume` goes on from its last checkpoint."""
    cancelled = "cancelled"
    """Somebody took it back by `rft cancel`."""


ENDED = frozenset({State.done, State.failed, State.interrupted, State.cancelled})


@dataclass(frozen=True, slots=True)
class Row:
    """A trial in the ledger. Times are seconds since 1970 by the clock of the machine that wrote them, for people."""

    name: str
    """Its folder, below the study's."""
    id: str
    """The digest of its settings; empty for what is no trial of an arm."""
    arm: str
    seed: int | None
    """None for a stage that trials share."""
    overrides: tuple[str, ...]
    """What ``rft run`` is given for it."""
    state: State = State.queued
    owner: str | None = None
    """The launcher that has it; none once it has ended by itself."""
    host: str | None = None
    pid: int | None = None
    started: float | None = None
    heartbeat: float | None = None
    ended: float | None = None
    attempts: int = 0
    """How often it was started."""
    error: str | None = None
    """Its traceback or last lines."""
    versions: str | None = None
    """The digest of the code that its results are made by (``rft.study.versions``)."""
    forks: bool = True
    """Whether it may start as a fork."""
    cancelling: bool = False
    """Whether its launcher is asked to end it."""
    demand: Demand | None = None
    """What it takes of the machine; None: not known."""

    def stored(self) -> dict[str, Any]:
        """What an sqlite row holds of it, by column."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        demand = None if self.demand is None else json.dumps(asdict(self.demand))
        return own | {"overrides": json.dumps(self.overrides), "state": self.state.value, "demand": demand}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Row:
        """The trial of what :meth:`stored` gave."""
        return cls(
            **{
                **stored,
                "overrides": tuple(json.loads(stored["overrides"])),
                "state": State(stored["state"]),
                "forks": bool(stored["forks"]),
                "cancelling": bool(stored["cancelling"]),
                "demand": Demand(**json.loads(stored["demand"])) if stored["demand"] else None,
            }
        )

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial of an arm: no shared stage, no tuning trial."""
        return "/" not in self.name

    @property
    def label(self) -> str:
        """Arm and seed in words; the name of what has none."""
        return f"{self.arm} seed {self.seed}" if self.is_trial and self.seed is not None else self.name
