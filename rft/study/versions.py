"""Versions of what the stages compute, and a digest of them that a launcher has without importing what computes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import rft
from rft.config.plugins import allowed_packages, code_digest, is_ours
from rft.store.canonical import plain, sha256_of

VERSIONS = {
    "sft": 5,
    "candidates": 5,
    "revisions": 4,
    "preferences": 3,
    "reward_model": 5,
    "trunk_rated": 2,
    "reference": 2,
    "reference_mismatched": 2,
    "policy": 5,
    "evaluation": 5,
    "audit": 5,
}
"""By stage. Raise one when its code changes what comes out."""
_DECLARED = re.compile(r"^ *(?:STAGE, )?(?:version: ClassVar\[int\]|VERSION) = .*\d+", re.MULTILINE)


def declared() -> dict[str, list[str]]:
    """By module of rft, the lines that declare the version of a class or of a stage of its own; nothing is imported."""
    package = Path(rft.__file__).parent
    found = {}
    for path in sorted(package.rglob("*.py")):
        if lines := _DECLARED.findall(path.read_text(encoding="utf-8")):
            found[path.relative_to(package).as_posix()] = [line.strip() for line in lines]
    return found


def versions() -> str:
    """16 hex digits over all versions of ours and over the files of all plugins.

    A trial that ended under other ones is started again. What they did not change is found in the store.
    """
    return _digest(tuple(sorted(name for name in allowed_packages() if not is_ours(name))))


@cache
def _digest(packages: tuple[str, ...]) -> str:
    plugins = {name: code_digest(name) for name in packages}
    return sha256_of(plain({"stages": VERSIONS, "declared": declared(), "plugins": plugins}))[:16]
