"""What the numbers were made with: versions, machine and commit of the report's process and the trials'.

Like ``cost`` it differs from machine to machine, and comparisons bit by bit leave it out.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import rft
from rft.machine import commit, machine
from rft.report.load import StudyResults

PACKAGES = (
    "torch", "lightning", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "gguf", "numpy", "scipy",
    "scikit-learn", "choix", "optuna", "hydra-core", "omegaconf", "pyarrow", "plotly", "matplotlib",
)  # fmt: skip
"""Packages that decide numbers or how they are drawn."""


def environment(results: StudyResults) -> dict[str, Any]:
    """``{"versions", "machine", "git", "results"}``; ``results`` is what the store says about the trials' results."""
    return {
        "versions": {"rft": rft.__version__, "python": platform.python_version(), **versions()},
        "machine": machine(),
        "git": commit(Path(rft.__file__).parent),
        "results": made(results),
    }


def versions() -> dict[str, str]:
    """The versions of those of `PACKAGES` that are installed; nothing is imported."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def made(results: StudyResults) -> dict[str, Any]:
    """Which versions of rft made the trials' results, from when to when, and at which commits on which machines.

    What the store or, of commits and machines (``by``), the trials' records do not know is out.
    """
    manifests = {
        use.key: use.entry.manifest for trial in results.trials for use in trial.stages.values() if use.entry
    }.values()
    created = sorted(str(manifest["created"]) for manifest in manifests)
    return {
        "rft_versions": sorted({str(manifest["rft_version"]) for manifest in manifests}),
        "first": created[0] if created else None,
        "last": created[-1] if created else None,
        "by": [
            json.loads(one) for one in sorted({json.dumps(t.made, sort_keys=True) for t in results.trials if t.made})
        ],
    }
