"""Says of which judge a fault is told, where a study has several."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rft.errors import UserError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a judge stands."""

    key: str = "judge"
    """Of the configuration: `judge`, which teaches, or `eval_judge`, which tests."""
    arm: str = ""
    """Whose configuration it is; empty if that is not known."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Faults of the judge at hand, with its arm and with its settings by their keys at this place.

        Raises:
            UserError: the fault, so told.
        """
        try:
            yield
        except UserError as error:
            raise UserError(self.words(str(error))) from error

    def words(self, fault: str) -> str:
        """A fault that is told as of the settings ``judge.…``; what stands in an address is left as it is."""
        own = re.sub(r"(?<![\w./@-])judge(?=[.:=])", self.key, fault)
        return f"arm {self.arm}: {own}" if self.arm else own
