"""What stages used, read from their store entries."""

from __future__ import annotations

from rft.budget.usage import USAGE, Usage
from rft.store import Entry


def ran_on_gpu(entry: Entry) -> bool:
    """Whether the stage's time is that of GPUs."""
    return bool(entry.manifest["config"].get("strategy", {}).get("gpu", False))


def usage_of(entry: Entry) -> Usage:
    """What making an entry used; of a policy, what its training used."""
    usage, cost = Usage.of(entry.metrics.get(USAGE) or {}), entry.cost
    usage.seconds = float(cost.get("seconds_training", cost["seconds"]))
    spent = usage.seconds if ran_on_gpu(entry) else float(cost["cpu_seconds"])
    usage.device_seconds = float(cost.get("device_seconds", spent))
    return usage
