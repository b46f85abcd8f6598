"""Installed plugins: their options are like ours; a broken one is a warning until it is chosen, then an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rft.config.options import GROUPS
from tests.config.distributions import ENTRIES, MODULE, OPTION, install, renamed
from tests.integration.harness import REPOSITORY, Outcome, environment, rft

TOY = "rft_toy/toy.py"
YAML = "rft_toy/conf/algorithm/toy.yaml"
PLUGIN = "plugin toy (rft-toy 0.1.0): "


def run(site: Path, *arguments: str, **more: str) -> Outcome:
    """``rft`` in an environment in which the distributions of a folder are installed too."""
    cwd = site / "elsewhere"
    cwd.mkdir(exist_ok=True)
    return rft(arguments, cwd, site / "store", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{site}", **more)


def warnings(outcome: Outcome) -> list[str]:
    """What stands on stderr, each line of it a warning."""
    lines = outcome.stderr.splitlines()
    assert outcome.code == 0, outcome.stderr
    assert all(line.startswith("rft: warning: ") for line in lines), outcome.stderr
    return [line.removeprefix("rft: warning: ") for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good plugin."""
    return install(tmp_path_factory.mktemp("site"))


class TestAnOption:
    def test_composes_with_the_defaults_of_its_dataclass(self, site: Path) -> None:
        outcome = run(site, "run", "algorithm=toy", "--cfg", "job")
        assert warnings(outcome) == []
        assert "_target_: rft_toy.toy.Toy" in outcome.stdout
        assert "kl_coef: 0.1" in outcome.stdout

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("algorithm.kl_cof=1", "algorithm.kl_cof: no such key in algorithm; did you mean 'kl_coef'?"),
            ("+algorithm.kl_cof=1", "did you mean 'kl_coef'?"),
            ("algorithm.kl_coef=-1", "algorithm.kl_coef=-1.0: must be at least 0"),
            ("algorithm.clip_range=1", "algorithm.clip_range: no such key in algorithm"),
        ],
    )
    def test_is_checked_like_ours(self, site: Path, override: str, words: str) -> None:
        assert words in run(site, "run", "algorithm=toy", override, "--cfg", "job").error

    def test_is_the_nearest_name(self, site: Path) -> None:
        assert "did you mean 'toy'?" in run(site, "run", "algorithm=tooy").error

    def test_is_in_the_help(self, site: Path) -> None:
        outcome = run(site, "run", "--help")
        (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("algorithm: ")]
        assert "toy" in line.removeprefix("algorithm: ").split(", ")
        assert "ppo" in line

    def test_is_listed_with_its_distribution(self, site: Path) -> None:
        for command in (["plugins"], ["plugins", "ls"]):
            outcome = run(site, *command)
            assert outcome.stdout.splitlines()[1].split() == [
                "toy", "rft-toy", "0.1.0", "normal", "algorithm=toy", "ok",
            ]  # fmt: skip
            assert warnings(outcome) == []

    def test_is_read_without_running_any_of_its_package(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {"rft_toy/__init__.py": "raise RuntimeError\n"})
        assert "kl_coef: 0.1" in run(site, "run", "algorithm=toy", "--cfg", "job").stdout
        assert warnings(run(site, "run", "algorithm=dpo", "--cfg", "job")) == []

    @pytest.mark.slow
    def test_of_every_group(self, tmp_path: Path) -> None:
        files: dict[str, str | None] = {YAML: None}
        for group in GROUPS:
            source = MODULE if group == "algorithm" else MODULE.replace("(OnPolicyConfig)", "")
            files[f"rft_toy/{group}_toy.py"] = source
            files[f"rft_toy/conf/{group}/toy.yaml"] = (
                f"defaults: [/schema/{group}/toy@_here_, _self_]\n_target_: rft_toy.{group}_toy.Toy\n"
                + ("name: toy\n" if group == "algorithm" else "")
            )
        site = install(tmp_path / "site", files)
        outcome = run(site, "run", *(f"{group}=toy" for group in GROUPS), "--cfg", "job")
        assert warnings(outcome) == []
        assert outcome.stdout.count(".Toy") == outcome.stdout.count("kl_coef: 0.1") == len(GROUPS)
        listed = run(site, "plugins").stdout
        assert all(f"{group}=toy" in listed for group in GROUPS)

    def test_may_extend_one_of_ours_from_a_module_beside_it(self, tmp_path: Path) -> None:
        files = {
            TOY: "from .base import ToyConfig\nfrom dataclasses import dataclass\nclass Toy: ...\n"
            "@dataclass\nclass Config(ToyConfig):\n    more: int = 3\n",
            "rft_toy/base.py": "from dataclasses import dataclass\nimport torch\nfrom transformers import AutoConfig\n"
            "from rft.algorithms.ppo import Config as PPOConfig\n"
            "@dataclass\nclass ToyConfig(PPOConfig):\n    x: int = 7\n",
        }
        outcome = run(install(tmp_path / "site", files), "run", "algorithm=toy", "--cfg", "job")
        assert warnings(outcome) == []
        for words in ("clip_range: 0.2", "x: 7", "more: 3"):
            assert words in outcome.stdout


def complete(site: Path, line: str) -> list[str]:
    """What bash offers for a line, by the script that ``rft run -sc install=bash`` prints."""
    bin_dir = site / "bin"
    bin_dir.mkdir(exist_ok=True)
    (bin_dir / "rft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rft "$@"\n', encoding="utf-8")
    (bin_dir / "rft").chmod(0o755)
    script = (
        'eval "$(rft run -sc install=bash)"\n'
        "words=($COMP_LINE); COMP_CWORD=$((${#words[@]} - 1)); COMP_POINT=${#COMP_LINE}\n"
        '[ "${COMP_LINE: -1}" = " " ] && COMP_CWORD=$((COMP_CWORD + 1))\n'
        'hydra_bash_completion\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    more = {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", "COMP_LINE": line}
    more["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{site}"
    command = ["bash", "-c", script]
    done = subprocess.run(command, env=environment(site / "store", **more), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good plugin, and a broken one, of which a shell must show nothing."""
    site = install(tmp_path_factory.mktemp("site"))
    return install(site, {}, name="rft-gone", entries="[rft.conf]\ngone = rft_gone.conf\n")


class TestCompletion:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("rft run algorithm=", ["algorithm=dpo", "algorithm=ppo", "algorithm=toy"]),
            ("rft run seed=1 algorithm=to", ["algorithm=toy"]),
            ("rft run algorithm=toy algorithm.kl", ["algorithm.kl_coef="]),
            ("rft run -m alg", ["algorithm="]),
            ("rft st", ["store"]),
            ("rft ", ["compare", "plugins", "run"]),
            ("rft store v", ["verify"]),
        ],
    )
    def test_as_the_shell_asks(self, two: Path, line: str, words: list[str]) -> None:
        assert set(words) <= set(complete(two, line))

    def test_offers_only_what_goes_on(self, two: Path) -> None:
        assert complete(two, "rft run algorithm=to") == ["algorithm=toy"]


BROKEN = [
    pytest.param({TOY: None}, ENTRIES, ["module 'rft_toy.toy'", "not there"], id="module missing"),
    pytest.param({TOY: MODULE + "\ndef f(:\n"}, ENTRIES, [f"{TOY}:{MODULE.count(chr(10)) + 2}: "], id="syntax"),
    pytest.param({YAML: OPTION + "a: b: c\n"}, ENTRIES, ["toy.yaml:4: not YAML"], id="YAML"),
    pytest.param({YAML: "- a\n"}, ENTRIES, ["toy.yaml: holds no keys"], id="YAML without keys"),
    pytest.param(
        {}, ENTRIES.replace("rft_toy.conf", "rft_toy.cnof"), ["package 'rft_toy.cnof'", "reinstall rft-toy"], id="entry"
    ),
    pytest.param({TOY: MODULE.replace("class Config", "class Other")}, ENTRIES, ["no dataclass named Conf"], id="none"),
    pytest.param({TOY: MODULE.replace("class Toy", "class Tory")}, ENTRIES, ["defines no Toy"], id="class"),
    pytest.param(
        {YAML: None, "rft_toy/conf/algorithms/toy.yaml": OPTION}, ENTRIES, ["holds no option", "algorithm/"], id="group"
    ),
    pytest.param(
        {YAML: OPTION.partition("\n")[2]}, ENTRIES,
        ["toy.yaml: its defaults name no schema", "write `defaults: [/schema/algorithm/toy@_here_, _self_]`"],
        id="no defaults",
    ),
    pytest.param(
        {YAML: OPTION.replace("/toy@", "/tyo@")}, ENTRIES,
        ["toy.yaml:1: defaults: '/schema/algorithm/tyo@_here_' is no schema"], id="another schema",
    ),
    pytest.param({YAML: "name: toy\n"}, ENTRIES, ["toy.yaml: has no _target_", "defaults"], id="no target"),
    pytest.param(
        {YAML: OPTION.replace("name: toy", "name: ppo")}, ENTRIES, ["toy.yaml:3: name: ppo; ", "write `name: toy`"],
        id="the name of another one",
    ),
    pytest.param(
        {YAML: "defaults: [ppo, _self_]\nkl_coef: 0.3\n"}, ENTRIES, ["toy.yaml: name: ppo; ", "write `name: toy`"],
        id="the name of the one it starts from",
    ),
    pytest.param(
        {YAML: OPTION.replace("rft_toy.toy", "os.path")}, ENTRIES, ["_target_=os.path.Toy", "RFT_ALLOWED"], id="target"
    ),
]  # fmt: skip


# What only shows when a Config is executed.
EXECUTED = [
    pytest.param(MODULE.replace("(0.1", "(torch.tensor(0.1)"), ["NameError", "rft.config"], id="torch"),
    pytest.param(MODULE.replace(": float", ": set"), ["toy.py: Config: ", "lists"], id="type"),
    pytest.param(MODULE.replace("    kl", "    raise SystemExit(7)\n    kl"), ["SystemExit: 7"], id="exit"),
    pytest.param(MODULE.replace("    kl", "    raise GeneratorExit\n    kl"), ["GeneratorExit"], id="base"),
    pytest.param(
        "from dataclasses import field\n"
        + MODULE.replace("number(0.1, at_least=0)", "field(default_factory=lambda: exit(7))"),
        ["toy.py: Config: ", "7"],
        id="default",
    ),
]


# What only shows when the file is laid over its Config.
VALUES = [
    pytest.param(OPTION + "\nkl_cof: 1\n", ["toy.yaml:5: kl_cof: no such key", "did you mean 'kl_coef'?"], id="key"),
    pytest.param(OPTION + "kl_coef: much\n", ["toy.yaml:4: kl_coef: ", "much is no number"], id="type"),
    pytest.param(OPTION + "kl_coef: -1\n", ["toy.yaml:4: kl_coef: -1.0: must be at least 0"], id="range"),
    pytest.param(OPTION.replace("name: toy\n", ""), ["toy.yaml: has no name", "write `name: toy`"], id="no name"),
    pytest.param(
        "defaults: [ppo, _self_]\nname: toy\nclip_rang: 1\n",
        ["toy.yaml:3: clip_rang: no such key", "did you mean 'clip_range'?"],
        id="key of another one",
    ),
]


class TestOneWhoseFileDoesNotFit:
    @pytest.mark.parametrize(("option", "words"), VALUES)
    def test_is_told_with_its_file_and_line(self, tmp_path: Path, option: str, words: Sequence[str]) -> None:
        site = install(tmp_path / "site", {YAML: option})
        error = run(site, "run", "algorithm=toy", "--cfg", "job").error
        listed = run(site, "plugins").stdout.splitlines()
        (fault,) = [line for line in listed if line.startswith("fault: ")]
        assert listed[1].split()[-1] == "fault"
        for text in (error, fault):
            for word in (f"{PLUGIN}algorithm=toy: ", *words):
                assert word in text

    def test_may_start_from_another_one(self, tmp_path: Path) -> None:
        more = "defaults: [ppo, _self_]\nname: more\nkl_coef: 0.3\nclip_range: ${algorithm.lam}\n"
        site = install(tmp_path / "site", {"rft_toy/conf/algorithm/more.yaml": more})
        outcome = run(site, "run", "algorithm=more", "--cfg", "job")
        assert warnings(outcome) == []
        for words in ("name: more", "kl_coef: 0.3", "_target_: rft.algorithms.ppo.PPO"):
            assert words in outcome.stdout


class TestOneThatFailsWhenExecuted:
    @pytest.mark.parametrize(("source", "words"), EXECUTED)
    def test_ends_only_the_commands_that_choose_it(self, tmp_path: Path, source: str, words: Sequence[str]) -> None:
        site = install(tmp_path / "site", {TOY: source})
        assert warnings(run(site, "run", "algorithm=dpo", "--cfg", "job")) == []
        error = run(site, "run", "algorithm=toy", "--cfg", "job").error
        (fault,) = [line for line in run(site, "plugins").stdout.splitlines() if line.startswith("fault: ")]
        for text in (error, fault):
            for word in (f"{PLUGIN}algorithm=toy: ", *words):
                assert word in text

    @pytest.mark.slow
    def test_is_not_executed_until_it_is_chosen(self, tmp_path: Path) -> None:
        mark = tmp_path / "executed"
        source = MODULE.replace("    kl", f"    import pathlib; pathlib.Path({str(mark)!r}).touch()\n    kl")
        site = install(tmp_path / "site", {TOY: source})
        run(site, "run", "-m", "algorithm=dpo,ppo", "--cfg", "job")
        run(site, "run", "--help")
        complete(site, "rft run algorithm=to")
        assert not mark.exists()
        run(site, "run", "algorithm=toy", "--cfg", "job")
        assert mark.exists()

    def test_completes_to_nothing(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {TOY: MODULE.replace("    kl", "    raise SystemExit(7)\n    kl")})
        assert complete(site, "rft run algorithm=toy algorithm.kl") == []

    def test_when_an_option_brings_it_along(self, tmp_path: Path) -> None:
        files = {
            TOY: MODULE.replace("    kl", "    raise SystemExit(7)\n    kl"),
            "rft_toy/conf/feedback/toy.yaml": "defaults: [/schema/feedback/toy@_here_, _self_]\n"
            "_target_: rft_toy.toy.Toy\n",
            "rft_toy/conf/algorithm/bringer.yaml": "defaults: [/schema/algorithm/bringer@_here_, "
            "override /feedback@_global_.feedback: toy, _self_]\n_target_: rft.algorithms.dpo.DPO\nname: bringer\n",
        }
        error = run(install(tmp_path / "site", files), "run", "algorithm=bringer", "--cfg", "job").error
        assert f"{PLUGIN}feedback=toy: " in error
        assert "SystemExit: 7" in error


IMPORTED = [
    pytest.param("import not_installed\n", ["cannot be imported", "ModuleNotFoundError", "toy.py:"], id="missing"),
    pytest.param("import sys\nsys.exit(3)\n", ["cannot be imported", "SystemExit: 3"], id="exit"),
    pytest.param("import os\nos._exit(3)\n", ["rft_toy.toy: executing it ended", "exit code 3"], id="death"),
]


class TestOneThatFailsWhenImported:
    @pytest.mark.parametrize(("code", "words"), IMPORTED)
    def test_is_found_by_the_list_which_goes_on(self, tmp_path: Path, code: str, words: Sequence[str]) -> None:
        site = install(tmp_path / "site", {TOY: f"print('chatter'){MODULE.replace('import torch', '')}{code}"})
        entries = ENTRIES.replace("rft_toy", "rft_good").replace("toy =", "good =")
        good = renamed("rft_good") | {"rft_good/toy.py": MODULE.replace("import torch", "")}
        option = good.pop("rft_good/conf/algorithm/toy.yaml")
        good["rft_good/conf/algorithm/good.yaml"] = option and option.replace(
            "algorithm/toy", "algorithm/good"
        ).replace("name: toy", "name: good")
        install(site, good, name="rft-good", entries=entries)
        outcome = run(site, "plugins")
        states = [line.split()[-1] for line in outcome.stdout.splitlines()[1:3]]
        assert (outcome.code, states) == (0, ["ok", "fault"]), outcome.stdout
        (fault,) = [line for line in outcome.stdout.splitlines() if line.startswith("fault: ")]
        for word in (f"{PLUGIN}algorithm=toy: ", *words):
            assert word in fault

    @pytest.mark.slow
    def test_that_never_ends_is_given_up(self, tmp_path: Path) -> None:
        source = f"{MODULE.replace('import torch', '')}import time\ntime.sleep(300)\n"
        site = install(tmp_path / "site", {TOY: source})
        code = "import rft.config.trying as t; t.LIMIT = 8.0; print(t.tried_faults()[0].text)"
        paths = environment(site / "store", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{site}")
        done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
        assert "rft_toy.toy: executing it took longer than 8 s" in done.stdout

    @pytest.mark.slow
    def test_is_a_failed_row_among_all_algorithms(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {TOY: MODULE.replace("import torch", "import not_installed")})
        outcome = run(site, "check-algorithm", "--all", "--only", "gold")
        assert outcome.code == 1, outcome.stderr
        assert "1 failed" in outcome.stdout.splitlines()[-1]
        (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("import: look at ")]
        assert f"{TOY}:3" in line
        assert "sft" in outcome.stdout
        assert "cannot be imported" in run(site, "check-algorithm", "toy").error


class TestABrokenOne:
    @pytest.mark.parametrize(("files", "entries", "words"), BROKEN)
    def test_is_a_warning_until_it_is_chosen(
        self, tmp_path: Path, files: dict[str, str | None], entries: str, words: Sequence[str]
    ) -> None:
        site = install(tmp_path / "site", files, entries=entries)
        (warning,) = warnings(run(site, "run", "algorithm=dpo", "--cfg", "job"))
        assert warning.startswith(PLUGIN)
        error = run(site, "run", "algorithm=toy", "--cfg", "job").error
        assert PLUGIN in error
        for word in words:
            assert word in warning
            assert word in error

    def test_is_not_told_to_commands_that_compose_nothing(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {TOY: None})
        assert warnings(run(site, "store", "ls")) == []
        assert warnings(run(site, "version")) == []
        assert len(warnings(run(site, "run", "--help"))) == 1

    def test_is_told_once_for_a_sweep_and_its_processes(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {TOY: None})
        code = (
            "import subprocess, sys\nfrom rft.cli.run import _precheck\n"
            "_precheck(['algorithm=ppo,dpo', 'seed=0,1'], sweep=True)\n"
            "subprocess.run([sys.executable, '-m', 'rft', 'run', 'algorithm=ppo', '--cfg', 'job'], check=True)\n"
        )
        paths = environment(site / "store", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{site}")
        done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
        assert len(done.stderr.splitlines()) == 1

    def test_is_listed_with_its_fault(self, tmp_path: Path) -> None:
        outcome = run(install(tmp_path / "site", {TOY: None}), "plugins")
        assert outcome.stdout.splitlines()[1].split()[-1] == "fault"
        assert f"fault: {PLUGIN}algorithm=toy: " in outcome.stdout

    def test_whose_module_fails_when_imported_is_refused_before_anything_is_computed(self, tmp_path: Path) -> None:
        site = install(tmp_path / "site", {TOY: MODULE.replace("import torch", "import not_installed")})
        error = run(site, "run", "algorithm=toy", "model=tiny").error
        for words in ("rft_toy.toy: cannot be imported", "ModuleNotFoundError", "not_installed", "toy.py:3"):
            assert words in error
        assert not (site / "store").exists()


class TestOneName:
    def test_in_two_distributions_is_refused_with_both(self, tmp_path: Path) -> None:
        entries = ENTRIES.replace("rft_toy", "rft_tyo")
        site = install(install(tmp_path / "site"), renamed("rft_tyo"), name="rft-tyo", entries=entries)
        (warning,) = warnings(run(site, "run", "algorithm=dpo", "--cfg", "job"))
        error = run(site, "run", "algorithm=toy", "--cfg", "job").error
        for text in (warning, error):
            for words in ("algorithm=toy: defined by", "(rft-toy 0.1.0)", "(rft-tyo 0.1.0)", "pip uninstall rft-tyo"):
                assert words in text
        listed = run(site, "plugins").stdout.splitlines()
        assert [line.split()[-1] for line in listed[1:3]] == ["fault", "fault"]

    def test_that_is_ours_is_refused_chosen_or_by_default(self, tmp_path: Path) -> None:
        option = OPTION.replace("algorithm/toy", "algorithm/ppo").replace("name: toy", "name: ppo")
        files = {YAML: None, "rft_toy/conf/algorithm/ppo.yaml": option}
        site = install(tmp_path / "site", files)
        (warning,) = warnings(run(site, "run", "algorithm=dpo", "--cfg", "job"))
        for text in (warning, run(site, "run", "algorithm=ppo").error, run(site, "run", "seed=1").error):
            for words in ("algorithm=ppo: defined by rft itself", "(rft-toy 0.1.0)", "pip uninstall rft-toy"):
                assert words in text

    def test_that_an_option_brings_along_is_refused(self, tmp_path: Path) -> None:
        option = "defaults: [/schema/feedback/ai@_here_, _self_]\n_target_: rft_toy.toy.Toy\n"
        error = run(
            install(tmp_path / "site", {"rft_toy/conf/feedback/ai.yaml": option}),
            "run",
            "algorithm=rlaif",
            "--cfg",
            "job",
        ).error
        assert "feedback=ai: defined by rft itself" in error


@pytest.mark.slow
def test_the_code_of_a_plugin_is_part_of_a_results_address(tmp_path: Path) -> None:
    whole: dict[str, str | None] = {TOY: MODULE.replace("import torch", "")}
    sites = [
        install(tmp_path / "a", whole),
        install(tmp_path / "b", whole, version="0.2.0"),
        install(tmp_path / "d", whole | {"rft_toy/__pycache__/toy.cpython-311.pyc": "x"}),
        *(
            install(tmp_path / place, whole | {place: "x = 1\n"})
            for place in ("rft_toy/helper.py", "rft_toy/words.txt")
        ),
    ]
    # Each in a fork of one process: none has seen another's package, and what all import is imported once.
    code = (
        "import os, sys\n"
        "import rft.algorithms.ppo\n"
        "from rft.study.parts import settings_of\n"
        "for site in sys.argv[1:]:\n"
        "    if os.fork():\n"
        "        assert os.wait()[1] == 0\n"
        "        continue\n"
        "    sys.path.insert(1, site)\n"
        "    for target in ('rft_toy.toy.Toy', 'rft.algorithms.ppo.PPO'):\n"
        "        print(settings_of({'_target_': target, 'lr': 1}).get('code'))\n"
        "    sys.exit()\n"
    )
    command = [sys.executable, "-c", code, *map(str, sites)]
    paths = environment(tmp_path / "store", PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
    (first, ours), *others = zip(*[iter(done.stdout.split())] * 2, strict=True)
    assert (first, ours) == others[0] == others[1]
    for changed, same in others[2:]:
        assert changed != first
        assert ours == same == "None"


def test_so_is_the_code_of_what_it_inherits_from_another_package(tmp_path: Path) -> None:
    def digest(site: Path, base: str) -> str:
        install(site, {TOY: "import other_base\nclass Toy(other_base.Base): ...\n", "other_base.py": base})
        code = "from rft.config.plugins import class_digest\nimport rft_toy.toy\nprint(class_digest(rft_toy.toy.Toy))"
        paths = environment(site / "store", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{site}")
        done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
        return done.stdout

    first = digest(tmp_path / "a", "class Base: ...\n")
    assert first == digest(tmp_path / "b", "class Base: ...\n")
    assert first != digest(tmp_path / "c", "class Base: x = 1\n")


def test_without_plugins_the_list_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    assert "rft new algorithm NAME" in run(tmp_path / "site", "plugins").stdout
