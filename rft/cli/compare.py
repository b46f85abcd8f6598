"""``rft compare``: run what is missing of a study, then compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rft.errors import UserError
from rft.store import Store


def compare_study(study: str, runs: Path, jobs: int, overrides: Sequence[str] = ()) -> None:
    """Run the missing trials if `study` has a study.yaml, then print the table and write the report.

    Args:
        study: a folder with a study.yaml, or a study's name.
        runs: where trials and reports are kept.
        jobs: trials at once; 0 as the study says.
        overrides: common to all arms, after those of the study.yaml.

    Raises:
        UserError: for what is wrong with the study, or if nothing of it is there.
    """
    from rft.study.study import load_study, plan, run_study
    from rft.study.tuning import fair_tuning, with_overrides

    console = Console()
    path = Path(study)
    name, failures, only = path.name, {}, None
    if path.exists():
        name, spec = load_study(path)
        spec, tuning = fair_tuning(name, with_overrides(spec, overrides), runs.absolute())
        planned = plan(name, spec, runs.absolute())
        only = {job.folder for job in planned.trials}
        failures = run_study(planned, jobs or spec.jobs, Console(stderr=True), tuning.run if tuning else None)
    elif overrides:
        raise UserError(f"{study}: has no study.yaml to run with {' '.join(overrides)}; give a folder that has one")
    folder = runs / name
    from rft.report import load_study as load_results
    from rft.report import print_table, summarise, write_report

    results = load_results(folder, Store.default(), only)
    summary = summarise(results)
    write_report(results, summary, folder)
    print_table(summary, console)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if failures:
        raise UserError(f"{len(failures)} trials failed: {', '.join(failures)}; see log.txt in their folders")
