"""The whole suite over one algorithm, by its name or as a class."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.algorithms.base import Algorithm
from rft.algorithms.declared import check_declared
from rft.config import compose, to_config
from rft.config.build import target_class
from rft.config.extract import one_line
from rft.config.options import options
from rft.errors import UserError, nearest
from rft.testing.checks import CHECKS, no_credit_no_update
from rft.testing.gold import class_gold_readers
from rft.testing.ranks import two_ranks
from rft.testing.result import CheckResult, Report
from rft.testing.subject import Check, Found, Subject, run_check
from rft.testing.tabular import reaches_its_optimum


def no_gold(subject: Subject) -> Found:
    """Nothing that the algorithm is written in reads the hidden gold reward, so no batch can carry it."""
    readers = class_gold_readers(subject.algorithm)
    if not readers:
        return Found(True, "its source names none")
    place, _, reason = readers[0].partition(": ")
    return Found(False, f"{reason}; gold belongs to evaluation alone", place)


# The first are checked under the defaults and every variant, the others under the defaults: a variant may well update
# without credit, by an entropy bonus.
EVERY_VARIANT: Mapping[str, Check] = {"optimum": reaches_its_optimum, **CHECKS, "ranks": two_ranks}
ONCE: Mapping[str, Check] = {"credit": no_credit_no_update, "gold": no_gold}


def check_class(algorithm: type[Algorithm], config: Any, only: Sequence[str] = (), *, variants: bool = True) -> Report:
    """Check a class under its config and under each of its variants.

    Args:
        algorithm: the class.
        config: its settings.
        variants: false for the config alone.
        only: names of the checks to run; all if empty.

    Raises:
        UserError: if there is no check of that name.
    """
    known = [*EVERY_VARIANT, *ONCE]
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: no such check; {nearest(name, known)}")
    report = Report(str(config.name))
    for number, variant in enumerate(algorithm.variants if variants else ({},)):
        subject = _under(algorithm, config, variant)
        checks = EVERY_VARIANT if number else {**EVERY_VARIANT, **ONCE}
        report.results += [run_check(n, c, subject) for n, c in checks.items() if not only or n in only]
    return report


def _under(algorithm: type[Algorithm], config: Any, variant: Mapping[str, Any]) -> Subject:
    from omegaconf import OmegaConf

    fields = {f.name for f in dataclasses.fields(config)}
    for key in variant:
        if key not in fields:
            raise UserError(
                f"{algorithm.__name__}.variants: {key!r} is no setting; valid are {', '.join(sorted(fields))}"
            )
    changed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), dict(variant)))
    return Subject(algorithm, changed, " ".join(f"{k}={v}" for k, v in variant.items()))


def check_algorithm(name: str, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Report:
    """Check a registered algorithm, ours or an installed package's.

    Args:
        name: as in ``rft run algorithm=NAME``.
        overrides: settings in Hydra's grammar, as ``algorithm.loss=ipo``, in place of the class's variants.
        only: names of the checks to run; all if empty.

    Raises:
        UserError: if there is no such algorithm, or no such setting.
    """
    cfg = compose([f"algorithm={name}", "model=tiny", *overrides])
    found: type[Algorithm] = target_class(cfg.algorithm)
    check_declared(found, str(cfg.algorithm["_target_"]))
    return check_class(found, to_config(cfg.algorithm), only, variants=not overrides)


def import_row(name: str) -> CheckResult | None:
    """A failed row for an algorithm that cannot be composed, imported, or told what it needs; None if it can."""
    try:
        cfg = compose([f"algorithm={name}", "model=tiny"])
        check_declared(target_class(cfg.algorithm), str(cfg.algorithm["_target_"]))
        to_config(cfg.algorithm)
    except Exception as error:  # whatever a stranger's code raises is what the row is about
        told = str(error) if isinstance(error, UserError) else one_line(error)
        return CheckResult("import", False, told, _place(name, error))
    return None


def _place(name: str, error: BaseException) -> str:
    """The line at which what could not be imported failed, else the option's file."""
    cause = error.__cause__ or (None if isinstance(error, UserError) else error)
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if Path(f.filename).is_file()] if cause else []
    path = next((str(o.path) for o in options() if o.key == ("algorithm", name)), "")
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}" if frames else path


def algorithm_names() -> Iterator[str]:
    """Every registered algorithm, those that cannot be used included."""
    yield from dict.fromkeys(option.name for option in options() if option.group == "algorithm")


__all__ = ["CheckResult", "algorithm_names", "check_algorithm", "check_class", "import_row"]
