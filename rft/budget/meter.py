"""The meter of one training run: what is used up, and whether another step still fits.

Every count is a function of the data and the weights, so that a limit on it stops every run at the same step; seconds
and money are not. A run is stopped by the data stream, before the step that would go beyond a limit: no algorithm
knows of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from rft.budget.usage import RESOURCES, Prices, Usage

Reduce = Callable[[Sequence[float]], list[float]]


def _alone(values: Sequence[float]) -> list[float]:
    return list(values)


class Meter:
    """Counts this process's usage and compares the sum over all ranks with the limits.

    Args:
        usage: the counters that the model, the engine and the streams of this process add to.
        limits: resource → limit.
        prices: make money of the rest.
        start: amount of each resource that is charged before the first step.
        bought: whether ``start`` holds the labels that are learned from, so that they do not count again.
        devices: GPUs of the run; 0 on a CPU, whose cores' time is taken from the process.
        reduce: sums over all ranks.
    """

    def __init__(
        self,
        usage: Usage,
        prices: Prices,
        limits: dict[str, float] | None = None,
        *,
        start: Mapping[str, float] | None = None,
        bought: bool = False,
        devices: int = 0,
        ranks: int = 1,
        reduce: Reduce = _alone,
    ) -> None:
        self.usage, self.prices, self.limits = usage, prices, dict(limits or {})
        self.devices, self.ranks, self.reduce = devices, ranks, reduce
        self.start, self.bought = dict.fromkeys(RESOURCES, 0.0) | dict(start or {}), bought
        self.stopped_by: str | None = None
        """The resource that ended the run; None while it goes on, or if its schedule ended it."""
        self.part: Usage | None = None
        """What one minibatch, generation and learning, took in the last round; None before the first has ended."""
        self._resumed = self._last = self._round = self._prepared = Usage()
        self._count_anew()

    def _count_anew(self) -> None:
        self._base = replace(self.usage)
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def prepared(self, made: Sequence[Usage] = ()) -> None:
        """Everything since the meter was made, such as the scores of the data, counts.

        Every rank prepares the same, so that its operations count once.

        Args:
            made: what was used once for all runs that need it, such as the reference's log-probabilities of the data;
                it counts as if this run had made it itself.
        """
        self._prepared = self._own()
        self._prepared.flops /= self.ranks
        for one in made:
            share = one.scaled(1 / self.ranks)
            self._prepared = self._prepared.add(replace(share, seconds=one.seconds))

    def begin(self) -> None:
        """The first round begins; what the same counters held before counts only as far as it was `prepared`."""
        self._count_anew()
        self._round = self.total()

    def _own(self) -> Usage:
        """What this process has used since it counts."""
        own = self.usage.add(self._base, -1)
        own.seconds = time.perf_counter() - self._wall
        own.device_seconds = own.seconds * self.devices / self.ranks if self.devices else cpu_seconds() - self._cpu
        return own

    def total(self) -> Usage:
        """What the run has used so far, all ranks together, with what came before it was resumed; without ``start``."""
        own = self._prepared.add(self._own())
        whole = Usage(*self.reduce([float(getattr(own, f.name)) for f in fields(own)]))
        whole.seconds /= self.ranks
        self._last = self._resumed.add(whole)
        return self._last

    @property
    def last(self) -> Usage:
        """The total when it was last taken; equal on all ranks."""
        return self._last

    def charged(self, used: Usage) -> dict[str, float]:
        """The amounts of a usage that count towards limits."""
        return self.prices.amounts(
            replace(used, labels=0.0, human_labels=0.0, judge_tokens=0.0, judge_money=0.0) if self.bought else used
        )

    def lacking(self, expected: Usage | None = None) -> str | None:
        """The resource of which too little is left for something more, or None. All ranks must ask together.

        Args:
            expected: what it will probably use, all ranks together; if that is not known, anything left is enough.
        """
        if not self.limits:
            return None
        used, more = self.charged(self.total()), self.charged(expected or Usage())
        for name, limit in self.limits.items():
            left = limit - self.start[name] - used[name]
            if left <= 0 or more[name] > left:
                return name
        return None

    def go_on(self, expected: Usage | None = None) -> bool:
        """Whether something more may be begun; once it may not, the run is over."""
        if self.stopped_by is None:
            self.stopped_by = self.lacking(expected)
        return self.stopped_by is None

    def fraction(self) -> float:
        """The largest share that is used of what a limit left at the start, when nothing is done; 0 without limits.

        All ranks must ask together.
        """
        if not self.limits:
            return 0.0
        used = self.charged(self.total())
        return max(used[name] / (limit - self.start[name]) for name, limit in self.limits.items())

    def used_in_round(self) -> Usage:
        """What was used since the last round ended."""
        return self.total().add(self._round, -1)

    def next_part(self, done: int) -> Usage:
        """What one more minibatch of a round will probably use: what one took before, else in this round so far."""
        return self.part or self.used_in_round().scaled(1 / done)

    def end_round(self, parts: int) -> None:
        """Learn from a finished round of so many minibatches what one takes."""
        if parts:
            self.part = self.used_in_round().scaled(1 / parts)
        self._round = self.total()

    def state(self) -> dict[str, Any]:
        """For a checkpoint; equal on all ranks, as of the last round's end."""
        part = None if self.part is None else asdict(self.part)
        return {"used": asdict(self._last), "part": part, "stopped_by": self.stopped_by}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._resumed = self._last = Usage(**state["used"])
        self._prepared = Usage()  # paid for before
        self.part = None if state["part"] is None else Usage(**state["part"])
        self.stopped_by = state["stopped_by"]


def cpu_seconds() -> float:
    """Of all threads of this process."""
    times = os.times()
    return times.user + times.system
