"""Where a setting is searched for by ``sweep=fair_tuning``, declared beside the default of a ``Config`` field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rft.config.ranges import declared, out_of_range
from rft.errors import UserError

T = TypeVar("T")
Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    """Whether all orders of magnitude are equally likely."""
    whole: bool = False
    """Whether they are integers."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a search range from {self.low:g} to {self.high:g} is empty: give the lower end first")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic search range begins above 0, not at {self.low:g}")

    def holds(self, value: object) -> bool:
        """Whether a value lies in it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]

    @property
    def ends(self) -> tuple[Value, ...]:
        """What shows whether the field takes it."""
        return (int(self.low), int(self.high)) if self.whole else (float(self.low), float(self.high))

    def __str__(self) -> str:
        scale = ", logarithmic" if self.log else ""
        return f"{self.low:g} to {self.high:g}{', whole' if self.whole else ''}{scale}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < max(2, len(self.values)):
            raise ValueError(f"a choice among {list(self.values)} is none: give two different values or more")

    def holds(self, value: object) -> bool:
        """Whether a value is among them."""
        return value in self.values

    @property
    def ends(self) -> tuple[Value, ...]:
        """What shows whether the field takes it."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Search = Range | Choice


def uniform(low: float, high: float) -> Range:
    """Numbers from low to high, all equally likely."""
    return Range(low, high)


def loguniform(low: float, high: float) -> Range:
    """Numbers from low to high, above 0, all orders of magnitude equally likely."""
    return Range(low, high, log=True)


def integers(low: int, high: int, *, log: bool = False) -> Range:
    """Integers from low to high, both included."""
    return Range(low, high, log=log, whole=True)


def choice(*values: Value) -> Choice:
    """One of the values; members of an enum by name."""
    return Choice(values)


def searched(default: T, search: Search) -> T:
    """A dataclass field that is no number, with a default and where it is searched for."""
    made: T = field(default=default, metadata={"search": search})
    return made


def search_space(config: type[Any]) -> dict[str, Search]:
    """The fields of an option's ``Config`` that declare where they are searched for.

    A subclass that declares a field anew, with another default alone, keeps its search range, as it keeps its limits.

    Raises:
        UserError: if a range holds what the field does not take.
    """
    found = {name: declared(config, name, "search") for name in config.__dataclass_fields__}
    space: dict[str, Search] = {name: search for name, search in found.items() if search is not None}
    for name, search in space.items():
        if fault := search_fault(config, name, search):
            module = config.__module__.partition(":")[0]
            raise UserError(f"{module}: Config.{name}: {fault}")
    return space


def search_fault(config: type[Any], name: str, search: object) -> str | None:
    """What a field does not take of a search range, and how to mend it; None if it takes all."""
    if not isinstance(search, Range | Choice):
        return f"search={search!r}: is no search range; write uniform, loguniform, integers or choice"
    node = OmegaConf.structured(config)
    for value in search.ends:
        if wanted := out_of_range(config, name, value):
            return f"search range {search}: {value} must be {wanted}; narrow it"
        try:
            node[name] = value
        except OmegaConfBaseException as error:
            return f"search range {search}: {str(error).splitlines()[0]}; give values of the field's type"
    return None


def narrowed(search: Search, values: Sequence[Any]) -> Search:
    """A range with other ends, or a choice among other values.

    Raises:
        ValueError: if they make none.
    """
    if isinstance(search, Choice):
        return Choice(tuple(values))
    if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError("a range has two ends, both numbers")
    return replace(search, low=values[0], high=values[1])
