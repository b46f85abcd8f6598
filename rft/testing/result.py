"""What a check found, and the table of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class CheckFailed(AssertionError):
    """A conformance check failed; the message is its table."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row of the table."""

    name: str
    ok: bool | None
    """None: the check says nothing about this subject."""
    detail: str = ""
    """What was measured, or what came, what was wanted and how to mend it."""
    where: str = ""
    """``file:line name`` to look at; empty if all is well."""
    settings: str = ""
    """The settings under which it was checked; empty for the defaults."""


@dataclass
class Report:
    """All checks of one subject."""

    subject: str
    results: list[CheckResult] = field(default_factory=list)

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that failed."""
        return [r for r in self.results if r.ok is False]

    @property
    def undeclared(self) -> list[CheckResult]:
        """The rows of settings for which the algorithm declares no optimum."""
        return [r for r in self.results if r.name == "optimum" and r.ok is None]

    def print(self, console: Console) -> None:
        """One row a check; below it, for each that failed, what is wrong and the line to look at."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, title=self.subject, title_justify="left", title_style="bold")
        for column in ("check", "settings", "", "measured"):
            table.add_column(column)
        words = {True: Text("ok", style="green"), False: Text("failed", style="bold red"), None: Text("–", style="dim")}
        for r in self.results:
            table.add_row(r.name, Text(r.settings), words[r.ok], Text(r.detail))
        console.print(table)
        for where in dict.fromkeys(r.where for r in self.failed):
            names = ", ".join(dict.fromkeys(r.name for r in self.failed if r.where == where))
            console.print(Text(f"{names}: look at {where}", style="red"), soft_wrap=True)

    def require(self) -> None:
        """Do nothing if all checks hold.

        Raises:
            CheckFailed: naming each that does not, with its line.
        """
        if self.failed:
            lines = [f"{r.name} [{r.settings or 'defaults'}]: {r.detail} (look at {r.where})" for r in self.failed]
            raise CheckFailed(f"{self.subject}: {len(lines)} checks failed\n" + "\n".join(lines))
