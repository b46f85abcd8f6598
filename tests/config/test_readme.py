"""What README.md and pages of docs/ show works: commands parse, overrides compose, files and targets are there."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from rft.cli.app import app
from rft.config import compose, expand_sweep
from rft.errors import UserError
from tests.architecture.source import ROOT

PAGES = (
    "README.md",
    "docs/budgets.md",
    "docs/judges.md",
    "docs/launchers.md",
    "docs/rlaif.md",
    "docs/runs.md",
    "docs/sweeps.md",
    "docs/trackers.md",
)
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
UsageError = typer.BadParameter.__bases__[0]  # typer exports the one and raises the other
MADE = (
    "runs/",
    "first/",
    "STUDY/",
    "rollout/",
    "train/",
    "eval/",
    "budget/",
    "time/",
    "distribution/",
    "verdict/",
    "test/",
)  # what commands write, and metrics: not what the repository has


def blocks(text: str) -> list[str]:
    """Commands of the code blocks; a line ending in a backslash goes on in the next.

    In a console block a command follows ``$``, and what it prints stands below.
    """
    found = re.findall(r"^```(bash|sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [(kind, line) for kind, block in found for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for kind, line in lines if kind != "console" or line.startswith("$ ")]


def refused(text: str) -> dict[str, str]:
    """Commands that are shown with the line that refuses them."""
    return dict(re.findall(r"^\$ (rft .*)\nrft: (.*)$", text, re.MULTILINE))


def spans(text: str) -> list[str]:
    """Inline code outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def commands(text: str, program: str) -> list[str]:
    """Every distinct command of a program, in blocks or inline, comments cut off."""
    lines = (shlex.join(shlex.split(line, comments=True)) for line in blocks(text))
    shown = {line for line in (*lines, *spans(text)) if line.startswith(f"{program} ")}
    return sorted(shown - set(refused(text)))


def paths(text: str) -> list[str]:
    """Inline code, and arguments of commands, that name a file or folder of the repository."""
    words = [*spans(text), *(word for line in blocks(text) for word in shlex.split(line, comments=True))]
    named = {
        word for word in words if re.fullmatch(r"[\w./-]+", word) and ("/" in word or re.search(r"\.\w{2,4}$", word))
    }
    dotted = {word for word in named if re.fullmatch(r"rft(\.\w+)+", word)}
    own_files = {
        "trial.json",
        "history.json",
        "evaluation.parquet",
        "diff.patch",
        "samples.json",
        "histograms.json",
        "report.html",
        "report.md",
        "summary.json",
        "figures/",
        "study.yaml",
    }
    own_files |= {"audit.json", "pairs.parquet", "audits.json", "audits.md"}
    own_files |= {"curves.jsonl", "test.csv", "test.parquet", "history.parquet", "sweep.yaml", "ppo.yaml", "grpo.yaml"}
    own_files |= {"log.txt", "history.json", "evaluation.parquet", "progress.json", "checkpoints/", ".hydra/", "wandb/"}
    return sorted(word for word in named - dotted - own_files if not word.startswith(MADE))


def overrides(text: str) -> list[str]:
    """Inline code that is one override, such as `strategy=ddp`."""
    return sorted({span for span in spans(text) if re.fullmatch(r"[a-z][\w.]*=[^\s…]+", span)})


def parse(command: str) -> Any:
    """What the program makes of a `rft` command: its configurations or its context; raises what the program would."""
    words = shlex.split(command)[1:]
    if words[0] == "run":
        return parse_run(words[1:])
    group: Any = typer.main.get_command(app)
    name = "rft"
    while hasattr(group, "commands") and (words or not group.invoke_without_command):
        assert words, f"{command}: {name} needs a command"
        name = words.pop(0)
        assert name in group.commands, f"{command}: no command {name}; there are {', '.join(group.commands)}"
        group = group.commands[name]
    return group.make_context(name, words)


def parse_run(words: Sequence[str]) -> list[Any]:
    flags = get_args_parser().parse_args(list(words))
    return [compose(run) for run in (expand_sweep(flags.overrides) if flags.multirun else [flags.overrides])]


@pytest.mark.parametrize("command", commands(README, "rft"))
def test_every_command_parses(command: str) -> None:
    assert parse(command)


@pytest.mark.parametrize("command", [one for one in commands(README, "rft run") if "budget.money=" in one])
def test_a_limit_on_money_is_shown_with_the_charge_that_is_fair_to_all(command: str) -> None:
    assert {str(cfg.budget.charge) for cfg in parse(command)} == {"full"}


@pytest.mark.parametrize(("command", "line"), refused(README).items())
def test_every_refusal_is_worded_as_shown(command: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(command)
    assert str(caught.value) == line


@pytest.mark.parametrize("override", overrides(README))
def test_every_override_composes(override: str) -> None:
    key, _, value = override.partition("=")
    chosen = OmegaConf.select(compose([override]), key)
    assert isinstance(chosen, DictConfig) or str(chosen) == value


@pytest.mark.parametrize("command", commands(README, "make"))
def test_every_target_is_in_the_makefile(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command.split()[1] in targets


@pytest.mark.parametrize("path", paths(README))
def test_every_file_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "name", sorted({span for span in spans(README) if re.fullmatch(r"rft(\.\w+)*\.[A-Z]\w+", span)})
)
def test_every_class_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_something_is_read_of_each_kind() -> None:
    assert "rft run -m algorithm=sft,ppo,dpo,rlaif seed=0,1,2 study=first" in commands(README, "rft")
    assert "make test" in commands(README, "make")
    assert "rft run algorithm.clip_rang=2" in refused(README)
    assert {"CONTRIBUTING.md", "experiments/default", "rft/algorithms/dpo.py"} <= set(paths(README))
    assert "strategy=ddp" in overrides(README)


def test_a_faulty_page_is_noticed() -> None:
    page = (
        "```bash\nrft run -m algorithm=ppo,dpoo seed=0  # a comment\nrft run \\\n  sed=0\nrft stroe ls\n```\n"
        "`rft store lsx` and `rft compare` in `no/such/file.py`, `stratgy=ddp`\n"
        "```text\nrft output is no command\n```\n"
    )
    found = commands(page, "rft")
    assert found == [
        "rft compare", "rft run -m algorithm=ppo,dpoo seed=0", "rft run sed=0", "rft store lsx", "rft stroe ls",
    ]  # fmt: skip
    for command, message in zip(
        found,
        [
            "Missing parameter: studies",
            "did you mean 'dpo'",
            "did you mean 'seed'",
            "no command lsx",
            "no command stroe",
        ],
        strict=True,
    ):
        with pytest.raises((UserError, AssertionError, UsageError), match=message):
            parse(command)
    assert paths(page) == ["no/such/file.py"]
    assert overrides(page) == ["stratgy=ddp"]
    assert not (Path(ROOT) / paths(page)[0]).exists()
