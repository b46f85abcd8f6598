"""Overrides in Hydra's grammar, read and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from rft.errors import UserError


def keys_of(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Every override with the group or key that it sets.

    Raises:
        UserError: if one is no override.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{' '.join(overrides)}: {line}; write overrides as key=value") from error
    return [(text, override.key_or_group) for text, override in zip(overrides, parsed, strict=True)]


def quoted(value: str) -> str:
    """A string as the value of an override, whatever characters it holds."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def written(value: Any) -> str:
    """A value as an override has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else repr(value)
