"""The commands, by typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft.cli import assets, new, plugins, store

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
app.add_typer(assets.app, name="assets", help="Models and data of the default study.")
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


@app.command()
def compare(
    study: Annotated[str, typer.Argument(help="A folder with a study.yaml, or the name of a study under runs/.")],
    runs: Annotated[Path, typer.Option(help="Where trials and reports are kept.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(help="Trials at once; 0: as the study says.")] = 0,
) -> None:
    """Compute what is missing of a study, print the table, write report.html and summary.json.

    Example: rft compare experiments/default
    """
    from rft.cli.compare import compare_study

    compare_study(study, runs, jobs)


@app.command()
def annotators() -> None:
    """Fit the simulated annotators to the real human ratings and show the fit."""
    from rft.cli.annotators import annotators as show

    show()


@app.command()
def version() -> None:
    """Print the version."""
    from rft import __version__

    typer.echo(__version__)
