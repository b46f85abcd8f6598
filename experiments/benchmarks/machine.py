"""What a benchmark ran on."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from rft.machine import made_here


def about(threads: int) -> dict[str, Any]:
    """Processor, cores, threads, commits, how busy the machine was before; versions are added as sides tell them."""
    made, load = made_here(), None
    with suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    return {
        **made["machine"],
        "threads": threads,
        "load_before": load,
        "commits": [made["commit"]],
        "dirty": made["dirty"],
        "date": time.strftime("%Y-%m-%d"),
        "versions": {},
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line for a table or a plot."""
    memory = machine["memory_bytes"]
    commits = ", ".join(str(one)[:9] for one in machine["commits"])
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    parts = [
        str(machine["processor"] or machine["architecture"]),
        f"{machine['cores']} cores" + (f", {memory / 2**30:.0f} GB" if memory else ""),
        f"{machine['threads']} threads a side",
        versions,
        f"load {machine['load_before']} before",
        f"rft at {commits}{' and uncommitted changes' if machine['dirty'] else ''}",
        str(machine["date"]),
    ]
    return "; ".join(part for part in parts if part)
