"""What a policy's training may use, and what the stages before it have used already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rft.budget import RESOURCES, USAGE, Budget, Meter, Usage
from rft.budget.stages import ran_on_gpu, usage_of
from rft.data.ranks import all_sum
from rft.errors import UserError
from rft.store import Entry
from rft.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Charge:
    """What a run may use, and what it has used before it begins."""

    budget: Budget
    shared: Mapping[str, float] = field(default_factory=dict)
    """Amount of each resource that the shared stages used which the policy depends on."""
    label: Usage = field(default_factory=Usage)
    """Of one label."""

    @classmethod
    def of(cls, budget: Budget, stages: Sequence[Entry]) -> Charge:
        """The charge of a policy that depends on some shared stages."""
        label = Usage()
        amounts = [budget.prices(on_gpu=ran_on_gpu(entry)).amounts(usage_of(entry)) for entry in stages]
        shared = {name: sum(one[name] for one in amounts) for name in RESOURCES}
        for entry in stages:
            if entry.stage == "preferences":
                label = Usage.of(entry.metrics[USAGE]).scaled(1 / max(float(entry.metrics["pairs"]), 1))
                label.flops = (
                    0.0  # a local judge's are of the stage that labelled, as the reward model's are of its own
                )
        return cls(budget, shared, label)

    def meter(self, usage: Usage, strategy: Strategy, *, offline: bool) -> Meter:
        """The meter of a run in this process; ``offline`` if it learns from labels that a shared stage has bought."""
        world = strategy.world_size
        return Meter(
            usage,
            self.budget.prices(on_gpu=strategy.on_gpu),
            self.budget.limits,
            start=self.shared if self.budget.full else None,
            bought=self.budget.full and offline,
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
        used = meter.start[name]
        raise UserError(
            f"budget.{name}={meter.limits[name]:g}: the shared stages alone have used {used:g}; raise it, or count the "
            "policy's training only with budget.charge=training"
        )
