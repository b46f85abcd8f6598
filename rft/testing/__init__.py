"""Conformance checks: what every algorithm, reward source, judge, feedback source and task must keep to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row of the table."""

    name: str  # what is checked, in a few words
    ok: bool
    detail: str = ""  # what came and what was wanted, or a figure of a check that passed
    where: str = ""  # file:line to look at
