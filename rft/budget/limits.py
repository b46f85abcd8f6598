"""Limits on what the training of a policy may use up, and the prices that make money of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rft.budget.usage import RESOURCES, Prices
from rft.config.ranges import number


class ChargeEnum(str, Enum):
    """What counts towards a limit."""

    training = "training"
    full = "full"


@dataclass
class PricesConfig:
    """A price list, in one currency. The defaults are US dollars."""

    gpu_hour: float = number(2.0, at_least=0)
    """One GPU for an hour, where the trial runs on GPUs."""
    core_hour: float = number(0.05, at_least=0)
    """One CPU core for an hour, where it does not."""
    human_label: float = number(0.67, at_least=0)
    """One judgement of a comparison by one person: three people who see it cost three times as much. Simulated people
    cost the same. Lee et al. 2023 (RLAIF), appendix on costs."""
    judge_mtoken: float = number(0.5, at_least=0)
    """A million tokens read by a judge."""


@dataclass
class Config:
    """Limits of a trial; null limits nothing. Training ends within one minibatch of the first that is reached."""

    prompts: float | None = number(None, above=0)
    """Questions answered, or learned from, each time counted."""
    generated_tokens: float | None = number(None, above=0)
    """Sampled response tokens."""
    trained_tokens: float | None = number(None, above=0)
    """Tokens through the policy with gradient, every pass counted."""
    flops: float | None = number(None, above=0)
    """Floating-point operations, by formula."""
    seconds: float | None = number(None, above=0)
    """Wall-clock seconds of training; a run under this limit is not the same at every start."""
    labels: float | None = number(None, above=0)
    """Comparisons learned from, each counted once."""
    money: float | None = number(None, above=0)
    """By the price list; like seconds, not the same at every start."""
    charge: ChargeEnum = ChargeEnum.training
    """training: only the policy's own training counts. full: so do the shared stages it depends on, from the start."""
    share: float = number(1.0, above=0, at_most=1)
    """Training pauses at the end of the round in which this share is behind: of its schedule, or of what a limit left,
    whichever is further along. With a larger share, in the same folder, it goes on from there."""
    prices: PricesConfig = field(default_factory=PricesConfig)
    """What a unit costs."""


class Budget:
    """The limits and prices of a trial."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def limits(self) -> dict[str, float]:
        """Resource → limit, of those that have one."""
        found = {name: getattr(self.config, name) for name in RESOURCES}
        return {name: float(limit) for name, limit in found.items() if limit is not None}

    @property
    def share(self) -> float:
        """Of the schedule or of what the limits leave: where training pauses."""
        return self.config.share

    @property
    def full(self) -> bool:
        """Whether shared stages count towards the limits."""
        return self.config.charge is ChargeEnum.full

    def prices(self, *, on_gpu: bool) -> Prices:
        """The price list for a kind of device."""
        listed = self.config.prices
        hour = listed.gpu_hour if on_gpu else listed.core_hour
        return Prices(hour, listed.human_label, listed.judge_mtoken)

    def address(self) -> dict[str, Any]:
        """What a policy's address takes from it: nothing without a limit."""
        if not self.limits:
            return {}
        listed = self.config.prices
        money = {"prices": dict(vars(listed))} if "money" in self.limits else {}
        return {"budget": {"limits": self.limits, "charge": self.config.charge.value, **money}}
