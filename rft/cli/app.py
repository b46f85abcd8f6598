"""The commands, by typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft.cli import assets, judge, new, plugins, runs, store, sweeps, sync, wandb_sweep, watch

app = typer.Typer(
    name="rft",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare reinforcement-fine-tuning algorithms for language models, side by side.\n\n"
    "Examples:\n\n"
    "  rft run algorithm=ppo seed=0\n\n"
    "  rft run -m algorithm=ppo,dpo,rlaif seed=0,1,2 study=first\n\n"
    "  rft compare experiments/default",
)
app.add_typer(store.app, name="store", help="Look at, verify and clean the store of stage results.")
app.add_typer(runs.app, name="runs", help="The trials on this machine: list, show, export to CSV and Parquet.")
app.add_typer(assets.app, name="assets", help="Models and data of the default study.")
app.add_typer(judge.app, name="judge")
app.add_typer(plugins.app, name="plugins", help="Installed plugins: options, versions, faults.")
app.add_typer(new.app, name="new", help="Write the package of a plugin.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="One trial, or with -m a sweep, configured by Hydra overrides: rft run [-m] [--cfg job] [key=value …]",
)
def run(context: typer.Context) -> None:
    """Hand the arguments to Hydra."""
    from rft.cli.run import hydra_run

    hydra_run(context.args)


@app.command(
    context_settings={"ignore_unknown_options": True},
    help="Compute what is missing of a study, print the table, write report.html and summary.json.\n\n"
    "Trials that failed, or whose rows cannot be compared, are named and left out. Several studies are compared "
    "together: arms that were run alike are one arm, others of the same name are called STUDY/ARM, and the stages that "
    "the studies do not share are named in a warning.\n\n"
    "Examples:\n\n"
    "  rft compare experiments/default\n\n"
    "  rft compare first\n\n"
    "  rft compare experiments/default --no-run\n\n"
    "  rft compare first second --out both\n\n"
    "  rft compare experiments/default --no-run --strict\n\n"
    "  rft compare experiments/default sweep=fair_tuning sweep.trials=8\n\n"
    "  rft compare experiments/default --launcher ray hydra.launcher.gpus=0.5",
)
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(
            help="Each a folder with a study.yaml, the name of a study under runs/, or a folder with trials. What has "
            "the form key=value is an override for all arms of every study, in place of what `overrides:` of its "
            "study.yaml sets the same; what an arm sets itself stays. "
            "hydra.launcher.KEY=VALUE says where trials run and what each takes.",
            metavar="STUDY... [KEY=VALUE...]",
        ),
    ],
    runs: Annotated[Path, typer.Option(help="Where trials and reports are kept.")] = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; if not given the study's, and of several runs/FIRST+SECOND."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trials at once; 0: as the study says.")] = 0,
    launcher: Annotated[
        str | None, typer.Option(help="Where trials run: local, ray or submitit; local if not given.")
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Start nothing: compare what is there, also while the study runs.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse, instead of leaving trials out or warning; exit code 2.")
    ] = False,
) -> None:
    """Hand the arguments on."""
    from rft.cli.compare import Options, compare_studies

    compare_studies(studies, Options(runs, out, jobs, launcher, run=not no_run, strict=strict))


sweeps.add_to(app)
watch.add_to(app)
sync.add_to(app)
wandb_sweep.add_to(app)


@app.command("check-algorithm")
def check_algorithm(
    names: Annotated[list[str] | None, typer.Argument(help="Algorithms, as in rft run algorithm=NAME.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every registered algorithm.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Names of checks; all if not given.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as algorithm.loss=ipo; may be given again.")
    ] = None,
) -> None:
    """Check that an algorithm is what it says: masks, gradients, ranks, its optimum. Exit code 1 if it is not.

    Examples: rft check-algorithm ppo · rft check-algorithm dpo --set algorithm.beta=0.5 --only optimum
    """
    from rft.cli.check_algorithm import check

    if not check(names or [], overrides or [], only or [], everything=everything):
        raise typer.Exit(1)


@app.command()
def annotators() -> None:
    """Fit the simulated annotators to the real human ratings and show the fit."""
    from rft.cli.annotators import annotators as show

    show()


@app.command(context_settings={"ignore_unknown_options": True})
def check(
    group: Annotated[str, typer.Argument(help="reward, judge, feedback or task.")],
    name: Annotated[str, typer.Argument(help="The option, as in reward=NAME.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Further overrides, as for rft run.")] = None,
) -> None:
    """Check that a part, ours or an installed package's, keeps to what the rest relies on. Exit code 1 if it does not.

    Example: rft check reward lexicon reward.least_words=4
    """
    from rft.cli.check_parts import check as check_part

    if not check_part(group, name, overrides or []):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    from rft import __version__

    typer.echo(__version__)
