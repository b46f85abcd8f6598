"""Runs checks of a stranger's class and makes rows of them: what came, what was wanted, and the line to look at."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rft.errors import UserError
from rft.testing.gold import class_gold_readers
from rft.testing.result import CheckResult

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Failed(Exception):
    """A check did not find what it wanted; the text says what came and what was wanted."""


def require(condition: object, otherwise: str) -> None:
    """Fail the running check unless the condition holds."""
    if not condition:
        raise Failed(otherwise)


def strayed(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> int | None:
    """The row in which two columns of scores differ most, if it is by more than rounding; shapes [N].

    Rounding is a thousandth of the scores' own spread, plus a few bits of float32.
    """
    off = np.abs(got - wanted) - 1e-3 * wanted.std() - 2e-6 * (1 + np.abs(wanted))
    worst = int(off.argmax())
    return worst if off[worst] > 0 else None


def strayed_or_lost(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> int | None:
    """The row in which one column has a score and the other none, NaN, else as `strayed` says; shapes [N]."""
    lost = np.flatnonzero(np.isnan(got) != np.isnan(wanted))
    if len(lost):
        return int(lost[0])
    known = ~np.isnan(wanted)
    if not known.any():
        return None
    worst = strayed(got[known], wanted[known])
    return None if worst is None else int(np.flatnonzero(known)[worst])


def where(found: type[Any], method: str) -> str:
    """``file:line`` of a class's method, property or, where it has none of its own, of the class."""
    member = inspect.getattr_static(found, method, found)
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, staticmethod | classmethod):
        member = member.__func__
    for candidate in (inspect.unwrap(member) if callable(member) else found, found):
        try:
            file, (_, line) = inspect.getsourcefile(candidate), inspect.getsourcelines(candidate)
        except (TypeError, OSError):  # made at run time, or in C
            continue
        if file is not None:
            return f"{_short(file)}:{line}"
    return found.__module__


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def row(name: str, found: type[Any], method: str, check: Callable[[], str | None]) -> CheckResult:
    """Run one check, which returns a figure or nothing, and fails by `require` or by whatever the class raises."""
    try:
        return CheckResult(name, True, check() or "")
    except (Failed, UserError) as error:
        return CheckResult(name, False, str(error), where(found, method))
    except Exception as error:
        told = str(error).splitlines()
        return CheckResult(
            name, False, f"raised {type(error).__name__}{f': {told[0]}' if told else ''}", _raised(error, found, method)
        )


def _raised(error: Exception, found: type[Any], method: str) -> str:
    """The deepest line of the class's own file that the error came through, else the method."""
    try:
        file = inspect.getsourcefile(found)
    except TypeError:
        file = None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{_short(file)}:{lines[-1]}" if file is not None and lines and lines[-1] else where(found, method)


def gold_row(found: type[Any]) -> CheckResult:
    """Neither the class nor what it imports of its own package reads the hidden gold reward."""
    readers = class_gold_readers(found)
    if not readers:
        return CheckResult("reads no gold", True)
    place, _, reason = readers[0].rpartition(": ")
    file, _, line = place.rpartition(":")
    more = f" (and {len(readers) - 1} more places)" if len(readers) > 1 else ""
    wanted = "what trains or judges must not know the hidden standard"
    return CheckResult("reads no gold", False, f"{reason}: {wanted}{more}", f"{_short(file)}:{line}")
