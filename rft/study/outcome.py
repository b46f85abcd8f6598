"""What a tuning trial came to, and what it used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rft.budget import Usage
from rft.budget.stages import usage_of
from rft.report.costs import prices_of
from rft.store import Store
from rft.store.names import RECORD
from rft.study.diverged import lost
from rft.study.jobs import Job


def outcome(job: Job, failure: str | None, split: str, objective: str, store: Store) -> dict[str, Any]:
    """``{"value", "error", "stages"}`` of one seed of a tuning trial.

    Args:
        job: that ran it.
        failure: why it failed; None if it did not.
        split: what it is judged on.
        objective: the metric that is to be high there.
        store: where its results are.

    Every stage has its ``key`` and ``seconds``, the training also what it ``used`` of every resource.
    """
    file = job.folder / RECORD
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found: dict[str, Any] = {"value": None, "error": failure}
    if failure is None:
        entry = store.find("evaluation", str(record["evaluation"]))
        assert entry is not None
        value = float(entry.metrics[f"eval/{split}/{objective}"])
        if math.isfinite(value):
            found["value"] = value
        else:
            found["error"] = f"{objective} is {value}"
    return found | {"stages": _stages(record, store) | (_diverged(job, record, store) if failure else {})}


def _stages(record: Mapping[str, Any], store: Store) -> dict[str, Any]:
    done = record.get("stages") or {}
    found = {
        name: {key: done[name][key] for key in ("key", "seconds")} for name in ("policy", "evaluation") & done.keys()
    }
    policy = store.peek("policy", found["policy"]["key"]) if "policy" in found else None
    if policy is not None:
        found["policy"]["used"] = prices_of(record["config"], policy).amounts(usage_of(policy))
    return dict(sorted(found.items(), reverse=True))


def _diverged(job: Job, record: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Training that came to nothing: its time is known, and priced as that of one device."""
    done = record.get("stages") or {}
    start = store.peek("sft", done["sft"]["key"]) if "sft" in done else None
    found = {}
    for key, seconds in lost(job.folder).items():
        usage = Usage(seconds=seconds, device_seconds=seconds)
        used = prices_of(record["config"], start).amounts(usage) if start else {"seconds": seconds}
        found[f"diverged {key}"] = {"key": key, "seconds": seconds, "used": used}
    return found
