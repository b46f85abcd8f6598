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
    parser, found = OverridesParser.create(), []
    for text in overrides:
        try:
            found.append((text, parser.parse_override(text).key_or_group))
        except HydraException as error:
            raise UserError(f"{text}: is no override; write overrides as key=value") from error
    return found


def overridden(overrides: Sequence[str], later: Sequence[str]) -> list[str]:
    """Overrides and later ones, without the earlier of those that set the same: a group is chosen once.

    Raises:
        UserError: if one is no override.
    """
    again = {key for _, key in keys_of(later)}
    return [*(text for text, key in keys_of(overrides) if key not in again), *later]


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
