"""``rft wandb-sweep``: a sweep for the controller of Weights & Biases, whose agents call ``rft run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rft.cli.examples import add_command

HEAD = """\
# A sweep of Weights & Biases. `wandb sweep FILE` hands it in and prints its id; `wandb agent ID`, as often as you like
# and on any machine with rft, runs trials: start it in the folder that has runs/.
"""


def wandb_sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="As for rft run -m; and interval(LOW,HIGH), tag(log,interval(LOW,HIGH)).", metavar="KEY=VALUE..."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File; printed if not given.")] = None,
    method: Annotated[
        Literal["grid", "random", "bayes"] | None,
        typer.Option(help="grid if not given; random, if there is a range to draw from."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="What the controller looks at; none for a grid, else eval/validation/gold if not given."),
    ] = None,
    goal: Annotated[Literal["maximize", "minimize"], typer.Option(help="What it wants of it.")] = "maximize",
    cap: Annotated[int | None, typer.Option(min=1, help="Runs at most.")] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search the ranges that the algorithm declares, as sweep=fair_tuning does.")
    ] = False,
) -> None:
    """Write a sweep for the controller of Weights & Biases: a YAML file whose agents call rft run.

    What has several values is a parameter of the sweep, the rest is the same in all runs. rft run -m and
    sweep=fair_tuning need no controller, and give every algorithm the same budget.
    """
    import yaml

    from rft.config import compose
    from rft.config.wandb_sweep import Goal, Method, Wanted
    from rft.config.wandb_sweep import wandb_sweep as sweep_of
    from rft.errors import UserError
    from rft.store.whole import write_whole
    from rft.study.parts import refuse_misfits

    found = sweep_of(overrides or [], Wanted(Method(method) if method else None, metric, Goal(goal), cap, search))
    for probe in found.probes:
        refuse_misfits(compose(probe))
    text = HEAD + yaml.safe_dump(dict(found.document), sort_keys=False, allow_unicode=True, width=120)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        write_whole(out, text.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; choose another place") from error
    typer.echo(f"{out}: {len(found.document['parameters'])} parameters; next: wandb sweep {out}")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    examples = (
        "rft wandb-sweep algorithm=ppo,dpo seed=0,1,2 study=first --out sweep.yaml",
        "rft wandb-sweep algorithm=ppo --search --method bayes --cap 40 --out ppo.yaml",
        "rft wandb-sweep algorithm=grpo 'algorithm.lr=tag(log,interval(1e-6,1e-4))' --cap 20 --out grpo.yaml",
    )
    add_command(app, wandb_sweep, examples, "wandb-sweep")
