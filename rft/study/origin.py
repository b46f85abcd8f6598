"""Where a study comes from: its study.yaml as it was when its trials were started, and what has changed there since."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rft.errors import UserError
from rft.store.names import STUDY
from rft.study.study import StudySpec, load_study

ASIDE = ("question", "jobs")  # decide no result


def origin(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What the ledger keeps of it: the file, what it says, and the overrides of the command line."""
    file = path / STUDY if path.is_dir() else path
    return {"file": str(file.absolute()), "overrides": list(overrides), "spec": _data(load_study(file)[1])}


def _data(spec: StudySpec) -> dict[str, Any]:
    found = asdict(spec)
    return found | {"replicate": spec.replicate.value}


def require_unchanged(kept: Mapping[str, Any], study: str) -> Path:
    """The study.yaml that a study was started from, if it still says the same.

    Args:
        kept: what the ledger has.
        study: the study, as the user named it.

    Raises:
        UserError: with every difference, and both ways on.
    """
    file = Path(kept["file"])
    if not file.exists():
        raise UserError(
            f"{file}: the study.yaml that {study} was started from is gone; put it back, or start single trials with "
            f"rft retry {study} NAME"
        )
    found = changes(kept["spec"], _data(load_study(file)[1]))
    if found:
        named = file.parent if file.name == STUDY else file
        raise UserError(
            f"{file}: has changed since {study} was started: {'; '.join(found)}; run it as it is now with rft compare "
            f"{shlex.join([str(named), *kept['overrides']])}, which computes only what is new, or put it back and "
            f"resume"
        )
    return file


def changes(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> list[str]:
    """What differs, key by key, in words."""
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        old, new, name = before.get(key, "nothing"), after.get(key, "nothing"), f"{above}{key}"
        if old == new or name in ASIDE:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, f"{name}.")
        else:
            found.append(f"{name} was {_short(old)} and is {_short(new)}")
    return found


def _short(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
