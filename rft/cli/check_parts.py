"""``rft check``: whether a reward source, judge, feedback source or task keeps to what the rest relies on."""

from __future__ import annotations

from collections.abc import Sequence


def check(group: str, name: str, overrides: Sequence[str]) -> bool:
    """Print one row a check, with the file and line of those that failed; returns whether all hold.

    Raises:
        UserError: if there is no such option.
    """
    from rft.cli.store import console
    from rft.runtime import prepare_process

    prepare_process()
    from rft.study.checking import check_part

    report = check_part(group, name, overrides)
    out = console()
    report.print(out)
    passed = len(report.results) - len(report.failed)
    out.print(f"{passed} of {len(report.results)} checks passed", highlight=False)
    return not report.failed
