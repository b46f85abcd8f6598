"""``rft wandb-sweep``: its YAML as W&B's agent uses it comes to the runs that ``rft run -m`` would start."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner

from rft.algorithms import ppo
from rft.cli.app import app
from rft.config import compose, expand_sweep
from rft.config.search import Range, search_space
from rft.config.wandb_sweep import Method, Wanted, wandb_sweep
from rft.errors import UserError
from tests.architecture.source import ROOT

NASTY = (r"task.prompt_file='a b.jsonl','it\'s, two','1','null','[x]',plain-text,'$HOME','ends in \\',null",)
KINDS = (
    "evaluation.splits=[test],[test,ood]",
    "algorithm=ppo",
    "algorithm.lr=1e-5,1",
    "model.lora.enabled=true,false",
    "study='a, b'",
)


def write(arguments: Sequence[str], file: Path) -> dict[str, Any]:
    """The file that the command writes, read as W&B reads it."""
    done = CliRunner().invoke(app, ["wandb-sweep", *arguments, "--out", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def agents_command(sweep: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The overrides with which W&B's agent calls ``rft run``, by its own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sent = json.loads(json.dumps({"args": {key: {"value": value} for key, value in values.items()}}))
    more = create_sweep_command_args(sent)
    words = create_sweep_command(list(sweep["command"]))
    assert words[:5] == ["${env}", "python", "-m", "rft", "run"]
    return [one for word in words[5:] for one in (more[word[2:-1]] if word.startswith("${") else [word])]


def all_values(sweep: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parameters = sweep["parameters"]
    for chosen in itertools.product(*(one["values"] for one in parameters.values())):
        yield dict(zip(parameters, chosen, strict=True))


def plain(overrides: Sequence[str]) -> Any:
    return OmegaConf.to_container(compose(overrides), resolve=True, enum_to_str=True)


@pytest.mark.parametrize(("overrides", "runs"), [(NASTY, 9), pytest.param(KINDS, 8, marks=pytest.mark.slow)])
def test_lists_strings_and_numbers_survive(overrides: Sequence[str], runs: int, tmp_path: Path) -> None:
    sweep = write([*overrides, "tracker=none"], tmp_path / "sweep.yaml")
    assert sweep["method"] == "grid"
    by_agent = [plain(agents_command(sweep, values)) for values in all_values(sweep)]
    by_hydra = [plain([*run, "tracker=none"]) for run in expand_sweep(overrides)]
    assert len(by_hydra) == runs
    assert by_agent == by_hydra


def test_numbers_stand_as_numbers_and_all_else_as_text(tmp_path: Path) -> None:
    own = write([*KINDS[:3]], tmp_path / "sweep.yaml")["parameters"]
    assert own["algorithm.lr"]["values"] == [1e-5, 1]
    assert own["evaluation.splits"]["values"] == ["[test]", "[test,ood]"]


def test_ranges_are_enumerated_and_what_is_chosen_by_a_pattern_too(tmp_path: Path) -> None:
    sweep = write(["seed=range(0,3)", "task.ood_prompts=range(8,4,-2)", "judge=glob([s*,p*])"], tmp_path / "sweep.yaml")
    own = {key: one["values"] for key, one in sweep["parameters"].items()}
    assert own == {"seed": [0, 1, 2], "task.ood_prompts": [8, 6], "judge": ["pairwise", "simulated"]}


def test_an_integer_that_json_would_round_is_text(tmp_path: Path) -> None:
    big = 2**53 + 1
    sweep = write([f"seed={big},1"], tmp_path / "sweep.yaml")
    assert sweep["parameters"]["seed"]["values"] == [str(big), 1]
    assert compose(agents_command(sweep, {"seed": str(big)})).seed == big


def drawn(spec: Mapping[str, Any], rng: random.Random) -> Any:
    """What W&B draws from a distribution, as its documentation has it."""
    if "values" in spec:
        return rng.choice(spec["values"])
    low, high = spec["min"], spec["max"]
    if spec["distribution"] == "int_uniform":
        return rng.randint(low, high)
    if spec["distribution"] == "uniform":
        return rng.uniform(low, high)
    assert spec["distribution"] == "log_uniform_values"
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def test_the_search_space_of_an_algorithm_is_drawn_from_and_composes(tmp_path: Path) -> None:
    given = ["algorithm=ppo", "algorithm.kl_coef=0.2", "algorithm.iterations=int(interval(2,5))", "seed=0,1"]
    sweep = write([*given, "--search", "--cap", "7"], tmp_path / "sweep.yaml")
    space = search_space(ppo.Config)
    own = sweep["parameters"]
    assert own.keys() == {"seed", "algorithm.iterations", *(f"algorithm.{key}" for key in space if key != "kl_coef")}
    for key in space.keys() - {"kl_coef"}:
        search = space[key]
        assert isinstance(search, Range)
        assert (own[f"algorithm.{key}"]["min"], own[f"algorithm.{key}"]["max"]) == (search.low, search.high)
        assert own[f"algorithm.{key}"]["distribution"] == "log_uniform_values"
    assert (sweep["method"], sweep["run_cap"]) == ("random", 7)
    assert sweep["metric"] == {"name": "eval/validation/gold", "goal": "maximize"}
    rng = random.Random(0)
    for _ in range(5):
        values = {key: drawn(spec, rng) for key, spec in own.items()}
        cfg = compose(agents_command(sweep, values))
        assert cfg.algorithm.lr == values["algorithm.lr"]
        assert cfg.algorithm.iterations == values["algorithm.iterations"]
        assert cfg.algorithm.kl_coef == 0.2
        assert list(cfg.evaluation.splits) == ["validation"]  # what is searched is not judged by the final test
        assert cfg.tracker.mode == "online"


def test_a_logarithmic_interval_is_drawn_as_one(tmp_path: Path) -> None:
    sweep = write(
        ["algorithm.lr=tag(log,interval(1e-6,1e-4))", "algorithm.kl_coef=interval(0,1)"], tmp_path / "sweep.yaml"
    )
    assert sweep["parameters"] == {
        "algorithm.lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-4},
        "algorithm.kl_coef": {"distribution": "uniform", "min": 0.0, "max": 1.0},
    }


@pytest.mark.parametrize(
    ("overrides", "wanted", "told"),
    [
        (["algorithm=ppo"], Wanted(), "nothing has several values"),
        (["seed=0,1", "algorithm.clip_rang=2"], Wanted(), "did you mean 'clip_range'?"),
        (["algorithm=ppo,dpoo"], Wanted(), "did you mean 'dpo'?"),
        (["algorithm=ppo,dpo"], Wanted(search=True), "write a sweep for each"),
        (["algorithm=sft"], Wanted(search=True), "it declares no search range"),
        (["algorithm.lr=interval(1e-6,1e-4)"], Wanted(Method.grid), "has no end"),
        (["algorithm.lr=interval(1e-4,1e-6)"], Wanted(), "give the lower end first"),
        (["algorithm.kl_coef=interval(-1,1)"], Wanted(), "algorithm.kl_coef"),
        (["+seed=0,1"], Wanted(), "W&B takes no such name"),
        (["seed=0,1", "seed=2,3"], Wanted(), "given twice"),
        (["hydra/launcher=ray", "seed=0,1"], Wanted(), "leave it out"),
        (["seed=0,1"], Wanted(metric="eval/valid/gold"), "did you mean 'validation'?"),
        (["seed=0,1", "evaluation.splits=[test]"], Wanted(metric="eval/ood/gold"), "leaves that split out"),
    ],
)
def test_what_cannot_be_swept_is_refused(overrides: list[str], wanted: Wanted, told: str) -> None:
    with pytest.raises(UserError) as caught:
        list(map(compose, wandb_sweep(overrides, wanted).probes))
    assert told in str(caught.value)


def test_the_agent_of_wandb_starts_rft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own code to the end, but for the server that sends the values: a real process, without a shell."""
    from wandb.wandb_agent import Agent

    sweep = write([*NASTY, KINDS[0], "tracker=none"], tmp_path / "sweep.yaml")
    for name in ("WANDB_DIR", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, str(tmp_path))  # the agent sets them, and leaves them
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    agent: Any = Agent(api=None, queue=None)
    agent._sweep_command = [*sweep["command"], "--cfg", "job"]
    values = {"task.prompt_file": r"'it\'s, two'", "evaluation.splits": "[test,ood]"}
    assert all(value in sweep["parameters"][key]["values"] for key, value in values.items())
    told = {"type": "run", "run_id": "abc", "program": sweep["program"]}
    agent._command_run(told | {"args": {key: {"value": value} for key, value in values.items()}})
    (process,) = agent._run_processes.values()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() == 0
    cfg = yaml.safe_load(capfd.readouterr().out)
    assert cfg["task"]["prompt_file"] == "it's, two"
    assert cfg["evaluation"]["splits"] == ["test", "ood"]
