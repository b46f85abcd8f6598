"""What this process runs on and from: the machine, and the commit of rft."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import rft
from rft.secrets import scrubbed

GIT_SECONDS = 10
LONGEST_DIFF = 1_000_000


@cache
def made_here() -> dict[str, Any]:
    """``{"commit", "dirty", "machine", "packages"}`` of what this process makes; found out once.

    The first two may be None.
    """
    found = commit(Path(rft.__file__).parent) or {"commit": None, "dirty": None}
    return {**found, "machine": machine(), "packages": packages()}


@cache
def uncommitted() -> str:
    """The changes to the checkout of rft that no commit has, as a patch; empty if it is none, or unchanged.

    What this process's environment holds in secret is left out, and what is beyond `LONGEST_DIFF` characters.
    """
    package = Path(rft.__file__).parent
    if not (commit(package) or {}).get("dirty"):
        return ""
    found = scrubbed(_git(package, "diff", "HEAD", "--no-color", "--no-ext-diff") or "")
    cut = f"\n… {len(found) - LONGEST_DIFF} characters more\n" if len(found) > LONGEST_DIFF else "\n"
    return found[:LONGEST_DIFF] + cut if found else ""


def packages() -> dict[str, str]:
    """Versions of Python and of what rft depends on; of those that are not there, none."""
    try:
        needed = metadata.requires("rft") or []
    except metadata.PackageNotFoundError:  # it runs from a folder that was never installed
        needed = []
    names = sorted({re.split(r"[^\w.-]", one)[0] for one in needed if "extra ==" not in one})
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
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
