"""What an algorithm's class must declare, checked before anything is computed."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from rft.algorithms.base import Algorithm, DataKind, Need
from rft.errors import UserError, nearest

BASE = "rft.algorithms.base.Algorithm"


def check_declared(found: Any, name: str) -> None:
    """Refuse a class that is no algorithm, or does not say what the runner must know.

    Args:
        found: what the option's ``_target_`` names.
        name: that ``_target_``.

    Raises:
        UserError: naming the class, what is wrong, and the mend.
    """
    if not (inspect.isclass(found) and issubclass(found, Algorithm)):
        raise UserError(f"algorithm: {name} does not extend {BASE}; derive the class from it")
    kinds, kind = get_args(DataKind), getattr(found, "data_kind", None)
    if kind is None:
        raise UserError(f"algorithm: {name} declares no data_kind; valid are {', '.join(sorted(kinds))}")
    if kind not in kinds:
        raise UserError(f"algorithm: {name} declares data_kind={kind!r}; {nearest(str(kind), kinds)}")
    needs: Any = found.needs
    if not isinstance(needs, frozenset | set):
        raise UserError(f"algorithm: {name} declares needs={needs!r}; write a set, as in frozenset({{'reference'}})")
    for need in sorted(map(str, needs)):
        if need not in get_args(Need):
            raise UserError(f"algorithm: {name} needs {need!r}; {nearest(need, get_args(Need))}")
    if found.loss is Algorithm.loss:
        raise UserError(f"algorithm: {name} does not define loss(batch); see {BASE}")
    if kind == "on_policy" and found.prepare is Algorithm.prepare:
        raise UserError(f"algorithm: {name} declares data_kind='on_policy' and does not define prepare(rollouts)")
