"""Packages that add options: entry points ``rft.plugins`` (modules) and ``rft.conf`` (packages of YAML)."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from rft.errors import UserError

_BASE = frozenset({"rft", "torch", "lightning", "transformers", "peft"})


@cache
def allowed_packages() -> frozenset[str]:
    """Packages that ``_target_`` may name: ours, the base libraries, installed plugins, RFT_ALLOWED_PACKAGES."""
    plugins = {e.value.partition(":")[0].partition(".")[0] for e in entry_points(group="rft.plugins")}
    asked = {p.strip() for p in os.environ.get("RFT_ALLOWED_PACKAGES", "").split(",") if p.strip()}
    return _BASE | plugins | asked


@cache
def plugin_conf_dirs() -> tuple[Path, ...]:
    """Folders of YAML that installed packages put on Hydra's search path.

    Raises:
        UserError: if an entry point names a package that is not there.
    """
    found = []
    for entry in entry_points(group="rft.conf"):
        spec = importlib.util.find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"entry point rft.conf {entry.name}: no package {entry.value!r}; reinstall its distribution"
            )
        found.append(Path(next(iter(spec.submodule_search_locations))))
    return tuple(found)
