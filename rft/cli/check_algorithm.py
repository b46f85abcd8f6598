"""``rft check-algorithm``: the conformance suite, a table an algorithm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rft.errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check(names: Sequence[str], overrides: Sequence[str], only: Sequence[str], *, everything: bool) -> bool:
    """Print what the suite finds; returns whether all checks hold.

    Raises:
        UserError: for a name or a setting that there is not.
    """
    if everything == bool(names):
        raise UserError("check-algorithm: name an algorithm, as in `rft check-algorithm ppo`, or give --all")
    console = Console(highlight=False)
    # What is wrong is refused in a second, before anything heavy is imported.
    settings = _of_each(overrides, console) if everything else {name: list(overrides) for name in names}
    for name in names:
        _composed(name, overrides)
    from rft.runtime import prepare_process

    prepare_process()
    import torch

    from rft.progress import bar
    from rft.testing import check_algorithm
    from rft.testing.result import Report
    from rft.testing.suite import import_row

    torch.set_num_threads(1)  # the problems are so small that a second thread only waits
    started, failed, passed, skipped, undeclared = time.monotonic(), 0, 0, 0, 0
    with bar("checks", len(settings)) as progress:
        for name, own in settings.items():
            # With --all, one that cannot be imported must not keep the others from being checked.
            broken = import_row(name) if everything else None
            report = Report(name, [broken]) if broken else check_algorithm(name, own, only)
            report.print(console)
            failed += len(report.failed)
            passed += sum(r.ok is True for r in report.results)
            undeclared += len(report.undeclared)
            skipped += sum(r.ok is None for r in report.results) - len(report.undeclared)
            progress.advance()
    seconds = time.monotonic() - started
    counts = f"{passed} passed, {failed or 'none'} failed, {skipped} do not apply"
    if undeclared:
        counts += f", {undeclared} without a declared optimum"
    console.print(f"{counts}, in {seconds:.0f} s")
    return not failed


def _composed(name: str, overrides: Sequence[str]) -> DictConfig:
    from rft.config import compose

    return compose([f"algorithm={name}", "model=tiny", *overrides])


def _of_each(overrides: Sequence[str], console: Console) -> dict[str, list[str]]:
    """Every registered algorithm with those of the settings that it has; prints which have one and which do not.

    Raises:
        UserError: for a setting that no algorithm has, or a value that one of those that have it refuses.
    """
    from rft.config.options import options

    names = list(dict.fromkeys(option.name for option in options() if option.group == "algorithm"))
    if not overrides:
        return {name: [] for name in names}
    keys: dict[str, list[str]] = {}
    for name in names:
        try:
            keys[name] = [str(key) for key in _composed(name, []).algorithm]
        except UserError:  # told in a row of its own
            keys[name] = []
    found: dict[str, list[str]] = {name: [] for name in names}
    known = {f"algorithm.{key}" for own in keys.values() for key in own}
    for override in overrides:
        path = ".".join(override.partition("=")[0].lstrip("+").split(".")[:2])
        having = [name for name in names if path.removeprefix("algorithm.") in keys[name]]
        if not having:
            raise UserError(f"--set {override}: no algorithm has that setting; {nearest(path, known)}")
        for name in having:
            found[name].append(override)
        told = f"{override}: set for {', '.join(having)}"
        others = ", ".join(name for name in names if name not in having)
        console.print(f"{told}; without it: {others}" if others else told, markup=False, soft_wrap=True)
    for name, own in found.items():
        if own:
            _composed(name, own)
    return found
