"""``rft compare``: run what is missing of studies, then compare, or compare what is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from rft.errors import UserError, nearest
from rft.store import Store
from rft.store.names import RECORD, STUDY, study_name

if TYPE_CHECKING:
    from rft.config.where import Where
    from rft.report import StudyResults
    from rft.study.study import Plan
    from rft.study.tuning import FairTuning

LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare."""

    runs: Path = Path("runs")
    """Where trials and reports are kept."""
    out: Path | None = None
    """The report's folder; None: that of the study, and of several ``<runs>/<first>+<second>``."""
    jobs: int = 0
    """Trials at once; 0: as the study says."""
    launcher: str | None = None
    """Where trials run, as in ``hydra/launcher=NAME``; None: this machine, or as the overrides say."""
    run: bool = True
    """Whether to run what is missing of studies with a study.yaml."""
    strict: bool = False
    """Whether a trial that is left out, or anything else to be warned of, is refused."""


@dataclass(frozen=True, slots=True)
class Found:
    """A study: where its trials are; if there is a study.yaml its plan, where they run, and what tunes its arms."""

    folder: Path
    planned: Plan | None = None
    where: Where | None = None
    tuning: FairTuning | None = None
    origin: Mapping[str, Any] | None = None
    """What the ledger keeps of where it comes from."""


def compare_studies(studies: Sequence[str], options: Options) -> None:
    """Run the missing trials of studies that have a study.yaml, then print the table and write the report.

    Args:
        studies: folders with a study.yaml, names of studies, folders of trials; and overrides, for all arms or of
            Hydra's launcher.
        options: how.

    Raises:
        UserError: for what is wrong with a study or with the report's folder, before anything is run; or, after the
            report is written, if trials failed.
    """
    console = Console()
    overrides = [given for given in studies if "=" in given and not Path(given).exists()]
    named = [study for study in studies if study not in overrides]
    with _early(named, overrides, options):
        found = [_locate(study, options, overrides) for study in named]
        if not found:
            given = " ".join(overrides)
            raise UserError(f"{given}: there is no study to override; name one, as in experiments/default")
        out = _out(found, options)
        _require_place(out)
        failures, stopped = _run(found) if options.run else ([], None)
    try:
        results = _load(found, check_settings=not options.run)
    except UserError as error:
        raise stopped or error from None
    from rft.report import print_table, summarise, write_report
    from rft.study.compared import tell_study

    summary = summarise(results)
    if options.strict:
        _require_flawless(results, summary)
    write_report(results, summary, out)
    print_table(summary, console)
    for warning in results.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)
    for fault in tell_study(results, summary, out):
        console.print(Text(f"warning: {fault}", style="yellow"), soft_wrap=True)
    if stopped:
        raise stopped
    if failures:
        raise UserError(
            f"{len(failures)} trials did not end well: {', '.join(failures)}; see above, and log.txt in their folders"
        )


def _early(studies: Sequence[str], overrides: Sequence[str], options: Options) -> AbstractContextManager[None]:
    """For a new study whose trials run here: the process that they are forked from is started before it is planned.

    Its imports and the planning each keep one core busy for seconds.
    """
    if not options.run or options.launcher or not any(_is_new(Path(study), options) for study in studies):
        return nullcontext()
    from rft.config.where import is_where
    from rft.study.executors.local import started_early
    from rft.study.jobs import has_gpu

    return nullcontext() if has_gpu() or any(map(is_where, overrides)) else started_early()


def _is_new(path: Path, options: Options) -> bool:
    """Whether a study can be run of which there is nothing yet."""
    return (path.is_file() or (path / STUDY).exists()) and not (options.runs / study_name(path)).exists()


def _locate(study: str, options: Options, overrides: Sequence[str]) -> Found:
    """A study by the folder of its study.yaml, by its name under `runs`, or by the folder of its trials.

    Raises:
        UserError: whatever is wrong with the study.yaml; a folder with neither it nor a trial; overrides of a study
            that cannot be run.
    """
    from rft.config.where import is_where, where
    from rft.report.load import records
    from rft.study.origin import origin
    from rft.study.study import load_study, plan
    from rft.study.tuning import fair_tuning, with_overrides

    path, runs = Path(study), options.runs
    if path.is_file() or (path / STUDY).exists():
        name, spec = load_study(path)
        placing = [one for one in overrides if is_where(one)]
        own = [one for one in overrides if one not in placing]
        at = where((runs / name).absolute(), placing, options.launcher, options.jobs)
        spec, tuning = fair_tuning(name, with_overrides(spec, own), runs.absolute())
        planned = plan(name, spec, runs.absolute())
        return Found(runs / name, planned, at.with_jobs(spec.jobs), tuning, origin(path, own))
    folder = path if path.exists() and not (runs / path.name).is_dir() else runs / path.name
    if not folder.is_dir():
        raise UserError(f"{study}: there is no such study; {_nearest_study(path, runs)}")
    if overrides:
        raise UserError(f"{study}: has no study.yaml to run with {' '.join(overrides)}; give a folder that has one")
    if folder == path and not any(path.rglob(RECORD)):
        load_study(path)
    records(folder)
    return Found(folder)


def _nearest_study(path: Path, runs: Path) -> str:
    """What may have been meant by the name of a study that is not there."""
    plans = {
        file.parent.name: str(file.parent)
        for folder in (Path("experiments"), path.parent)
        for file in sorted(folder.glob("*/study.yaml"))
    }
    ran = {one.name: one.name for one in runs.glob("*") if one.is_dir() and any(one.rglob(RECORD))}
    there = plans | ran if path.parent == Path() else ran | plans
    return (
        nearest(path.name, there) if there else "give a folder with a study.yaml, or make trials first, with rft run -m"
    )


def _out(found: Sequence[Found], options: Options) -> Path:
    """The folder of the report."""
    twice = [name for name, count in Counter(one.folder.name for one in found).items() if count > 1]
    if twice:
        raise UserError(f"study {twice[0]} is given twice; give each once, and studies of one name another folder each")
    if options.out is not None:
        return options.out
    if len(found) == 1:
        return found[0].folder
    out = options.runs / "+".join(one.folder.name for one in found)
    if len(out.name) > LONGEST_NAME:
        raise UserError(f"{len(found)} studies make a long name for a folder; say where the report goes with --out DIR")
    if any(out.rglob(RECORD)):
        raise UserError(f"{out} is the folder of a study; say where the report goes with --out DIR")
    return out


def _require_place(out: Path) -> None:
    """Refuse a folder for the report that could not be made or written.

    Raises:
        UserError: naming what is in the way.
    """
    there = next(one for one in (out.absolute(), *out.absolute().parents) if os.path.lexists(one))
    fault = None if there.is_dir() else "is no folder"
    if fault is None and not os.access(there, os.W_OK | os.X_OK):
        fault = "is not writable"
    if fault:
        raise UserError(f"the report cannot be written to {out}: {there} {fault}; choose another with --out DIR")


def _run(found: Sequence[Found]) -> tuple[list[str], UserError | None]:
    """Names of the trials that failed, and what ended a study before its trials."""
    from rft.report.imports import import_libraries
    from rft.study.study import run_study

    failures: list[str] = []
    stopped = None
    for one in found:
        if one.planned is not None and one.where is not None:
            before = f"{one.folder.name} " if len(found) > 1 else ""
            try:
                tune = one.tuning.run if one.tuning else None
                console = Console(stderr=True)
                failed = run_study(one.planned, one.where, console, tune, origin=one.origin, meanwhile=import_libraries)
                failures += [f"{before}{name}" for name in failed]
            except UserError as error:
                stopped = stopped or error
    return failures, stopped


def _load(found: Sequence[Found], *, check_settings: bool) -> StudyResults:
    """The results of all studies as one."""
    from rft.report.joint import join
    from rft.report.load import load_study
    from rft.report.rows import Pool
    from rft.study.standing import as_found, standing, told

    store, pool, parts = Store.default(), Pool(), []
    for one in found:
        only, settings, tuned = None, None, None
        planned = one.planned
        if planned is not None:
            planned = one.tuning.settled(planned) if one.tuning else planned
            planned = as_found(planned) if check_settings else planned
            only = {job.folder for job in planned.trials}
            settings = planned.settings if check_settings else None
            if settings and one.tuning:
                settings = one.tuning.unsearched(settings)
            tuned = set(one.tuning.arms) if one.tuning else set()
        part = load_study(one.folder, store, only, settings=settings, tuned=tuned, pool=pool)
        if len(found) > 1:
            part = replace(part, study=one.folder.name)
        if planned is not None and (state := standing(planned)):
            part = replace(part, incomplete=state, warnings=(told(state), *part.warnings))
        parts.append(part)
    return join(parts)


def _require_flawless(results: StudyResults, summary: Mapping[str, Any]) -> None:
    """Refuse what a report would have to warn of.

    Raises:
        UserError: with the first cause and how many there are.
    """
    from rft.report.wording import brief

    causes = [f"{trial.folder}: {brief(trial.error)}" for trial in results.failed]
    causes += results.warnings
    if not summary["started_alike"] and not results.warnings:
        causes.append("the arms did not start alike: a stage that all should share differs")
    if causes:
        raise UserError(
            f"not compared, by --strict: {len(results.failed)} trials left out, "
            f"{len(causes) - len(results.failed)} warnings; the first: {causes[0]}"
        )
