"""Plain JSON data and the one way to write it, so that equal settings always hash alike."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def plain(value: Any, where: str = "value", *, nan_to_none: bool = False) -> Json:
    """`value` as dicts, lists, strings, numbers, booleans and None only.

    Tuples become lists, numbers of other libraries (NumPy) become int or float. Anything else raises
    TypeError with the place (``config.lr``): a silent ``str()`` would put memory addresses into keys. JSON
    knows no NaN and no infinity: ValueError, or None in their place with `nan_to_none`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Real):
        return _number(value, where, nan_to_none)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} has the key {name!r} ({type(name).__name__}): a string is wanted")
        return {str(k): plain(v, f"{where}.{k}", nan_to_none=nan_to_none) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(v, f"{where}[{i}]", nan_to_none=nan_to_none) for i, v in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}: numbers, strings, lists or mappings are wanted")


def _number(value: numbers.Real, where: str, nan_to_none: bool) -> int | float | None:
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if math.isfinite(number):
        return number
    if nan_to_none:
        return None
    raise ValueError(f"{where} is {number}: only finite numbers can be kept as JSON")


def canonical(value: Json) -> bytes:
    """`value` as JSON with sorted keys, no spaces, ASCII only, shortest round-trip floats."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def sha256_of(value: Json) -> str:
    """64 hex digits over the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()
