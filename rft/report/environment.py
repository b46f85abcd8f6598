"""What the numbers were made with: versions, machine and commit of the process that writes the report.

Like ``cost`` it differs from machine to machine, and comparisons bit by bit leave it out.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import rft
from rft.report.load import StudyResults

PACKAGES = (
    "torch", "lightning", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "gguf", "numpy", "scipy",
    "scikit-learn", "choix", "optuna", "hydra-core", "omegaconf", "pyarrow", "plotly", "matplotlib",
)  # fmt: skip
"""Packages that decide numbers or how they are drawn."""
GIT_SECONDS = 10


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


def machine() -> dict[str, Any]:
    """System, processor, cores and memory in bytes; a number that the system does not tell is None."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
        "gpus": _gpus(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    """Names of the graphics cards; none if torch was not needed, since asking would import it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def commit(package: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `package` is a tracked part of, and whether it was changed; else None."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": bool(changes)} if head else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None without git, outside a repository or if it takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=GIT_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def made(results: StudyResults) -> dict[str, Any]:
    """Which versions of rft made the trials' results, and from when to when; what the store no longer knows is out."""
    manifests = {
        use.key: use.entry.manifest for trial in results.trials for use in trial.stages.values() if use.entry
    }.values()
    created = sorted(str(manifest["created"]) for manifest in manifests)
    return {
        "rft_versions": sorted({str(manifest["rft_version"]) for manifest in manifests}),
        "first": created[0] if created else None,
        "last": created[-1] if created else None,
    }
