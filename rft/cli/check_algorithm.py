"""``rft check-algorithm``: the conformance suite, a table an algorithm."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from rft.errors import UserError


def check(names: Sequence[str], overrides: Sequence[str], only: Sequence[str], *, everything: bool) -> bool:
    """Print what the suite finds; returns whether all checks hold.

    Raises:
        UserError: for a name or a setting that there is not.
    """
    if everything == bool(names):
        raise UserError("check-algorithm: name an algorithm, as in `rft check-algorithm ppo`, or give --all")
    from rft.config import compose

    for name in names:  # refused in a second, before anything heavy is imported
        compose([f"algorithm={name}", "model=tiny", *overrides])
    from rft.runtime import prepare_process

    prepare_process()
    import torch

    from rft.progress import bar
    from rft.testing import check_algorithm
    from rft.testing.result import Report
    from rft.testing.suite import algorithm_names, import_row

    torch.set_num_threads(1)  # the problems are so small that a second thread only waits
    console = Console(highlight=False)
    chosen = list(algorithm_names()) if everything else list(names)
    started, failed, passed, skipped = time.monotonic(), 0, 0, 0
    with bar("checks", len(chosen)) as progress:
        for name in chosen:
            # With --all, one that cannot be imported must not keep the others from being checked.
            broken = import_row(name) if everything else None
            report = Report(name, [broken]) if broken else check_algorithm(name, overrides, only)
            report.print(console)
            failed += len(report.failed)
            passed += sum(r.ok is True for r in report.results)
            skipped += sum(r.ok is None for r in report.results)
            progress.advance()
    seconds = time.monotonic() - started
    console.print(f"{passed} passed, {failed or 'none'} failed, {skipped} do not apply, in {seconds:.0f} s")
    return not failed
