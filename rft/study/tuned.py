"""An arm that is tuned, and what is kept of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rft.config.search import Search
from rft.study.asks import Asks


@dataclass(frozen=True)
class Arm:
    """An arm that is tuned."""

    name: str
    algorithm: str
    overrides: tuple[str, ...]
    """Of all its jobs."""
    space: Mapping[str, Search]
    asks: Asks
    forks: bool
    strategy: Mapping[str, Any] | None = None
    """Settings of that group; None: not known."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """What came out, by number."""

    @property
    def winner(self) -> dict[str, Any] | None:
        """The best trial, the first of equals; None if none has a value."""
        told = [trial for trial in self.trials if trial["value"] is not None]
        return max(told, key=lambda trial: (trial["value"], -trial["number"])) if told else None

    @property
    def failure(self) -> str | None:
        """Why there is no winner; None if there is one."""
        if self.winner:
            return None
        first = next((seed["error"] for trial in self.trials for seed in trial["seeds"] if seed["error"]), "")
        which = f"all {len(self.trials)} tuning trials failed"
        if self.stopped:
            which = f"of {len(self.trials)} tuning trials {self.stopped} were stopped early and the others failed"
        return f"{which}, so it has no winner; the first: {first}"

    @property
    def stopped(self) -> int:
        """How many of its trials were stopped early."""
        return sum(trial["stopped"] is not None for trial in self.trials)

    @property
    def best_so_far(self) -> list[float | None]:
        """The best value after each trial; None before the first that has one."""
        best: float | None = None
        found = []
        for trial in self.trials:
            value = trial["value"]
            best = value if best is None else best if value is None else max(best, value)
            found.append(best)
        return found


def kept(number: int, settings: Mapping[str, Any], tested: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a trial: its value if it was trained to its end, and if it was stopped, where and at what value.

    Args:
        number: of the trial in its arm.
        settings: that were tried.
        tested: ``{"value", "share", "seeds"}`` of the last point at which it was tested.
    """
    value, share, seeds = tested["value"], tested["share"], tested["seeds"]
    stopped = None if value is None or share == 1 else {"share": share, "value": value}
    return {
        "number": number,
        "settings": settings,
        "value": None if stopped else value,
        "stopped": stopped,
        "seed": seeds[0]["seed"],
        "seeds": seeds,
    }
