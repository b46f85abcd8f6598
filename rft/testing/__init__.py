"""Conformance: what every algorithm promises, checked by machine, for ours and for anyone's.

from rft.testing import check_algorithm

def test_conformance() -> None:
    check_algorithm("my_algorithm").require()
"""

from __future__ import annotations

from rft.testing.result import CheckFailed, CheckResult, Report
from rft.testing.suite import check_algorithm, check_class

__all__ = ["CheckFailed", "CheckResult", "Report", "check_algorithm", "check_class"]
