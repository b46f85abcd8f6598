"""Overrides in Hydra's grammar, read and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from rft.config.options import NOBODY, SECOND
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


def with_nobody(overrides: Sequence[str]) -> list[str]:
    """`eval_judge=null` written as `eval_judge=none`: Hydra takes no null for a group, and none means the same."""
    place = rf"\+{{0,2}}({'|'.join(SECOND)})="
    return [
        re.sub(r"(?<![\w.-])null(?![\w.-])", NOBODY, text) if re.match(place, text) else text  # in a sweep too
        for text in overrides
    ]


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
