"""What a policy's training may use, and what the stages before it have used already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rft.budget import USAGE, Budget, Meter, Usage
from rft.budget.stages import usage_of
from rft.data.ranks import all_sum
from rft.errors import UserError
from rft.store import Entry
from rft.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Charge:
    """What a run may use, and what it has used before it begins."""

    budget: Budget
    shared: Usage = field(default_factory=Usage)
    """Of the shared stages that the policy depends on."""
    label: Usage = field(default_factory=Usage)
    """Of one label."""

    @classmethod
    def of(cls, budget: Budget, stages: Sequence[Entry]) -> Charge:
        """The charge of a policy that depends on some shared stages."""
        shared, label = Usage(), Usage()
        for entry in stages:
            shared = shared.add(usage_of(entry))
            if entry.stage == "preferences":
                label = Usage.of(entry.metrics[USAGE]).scaled(1 / max(float(entry.metrics["pairs"]), 1))
        return cls(budget, shared, label)

    def meter(self, usage: Usage, strategy: Strategy) -> Meter:
        """The meter of a run in this process."""
        world = strategy.world_size
        return Meter(
            usage,
            self.budget.prices(on_gpu=strategy.on_gpu),
            self.budget.limits,
            start=self.shared if self.budget.full else None,
            devices=world if strategy.on_gpu else 0,
            ranks=world,
            reduce=all_sum,
        )


def refuse_spent(meter: Meter) -> None:
    """Refuse a budget that the shared stages have used up.

    Raises:
        UserError: naming the resource, the limit and what is used.
    """
    if (name := meter.lacking()) is not None:
        used = meter.prices.amounts(meter.start)[name]
        raise UserError(
            f"budget.{name}={meter.limits[name]:g}: the shared stages alone have used {used:g}; raise it, or count the "
            "policy's training only with budget.charge=training"
        )
