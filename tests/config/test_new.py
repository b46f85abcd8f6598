"""``rft new`` writes a package that is whole, in good style, and composes; a name that will not do is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rft.cli import new
from rft.errors import UserError
from tests.integration.harness import REPOSITORY, rft

WRITTEN = {
    "README.md",
    "pyproject.toml",
    "rft_mine/__init__.py",
    "rft_mine/conf/__init__.py",
    "rft_mine/conf/algorithm/mine.yaml",
    "rft_mine/mine.py",
    "tests/test_mine.py",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new.write_package("algorithm", "mine", tmp_path_factory.mktemp("new"))


def test_the_command_writes_all_and_says_what_is_next(tmp_path: Path) -> None:
    outcome = rft(["new", "algorithm", "mine", "--into", "plugins"], tmp_path, tmp_path / "store")
    assert (outcome.code, outcome.stderr) == (0, "")
    folder = tmp_path / "plugins" / "rft-mine"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == WRITTEN
    for command in ("pip install -e plugins/rft-mine", "rft check-algorithm mine", "rft run algorithm=mine model=tiny"):
        assert command in outcome.stdout
    assert [path.name for path in (tmp_path / "plugins").iterdir()] == ["rft-mine"]


def test_the_help_has_an_example(tmp_path: Path) -> None:
    outcome = rft(["new", "algorithm", "--help"], tmp_path, tmp_path / "store")
    assert outcome.code == 0
    assert "rft new algorithm remax --into plugins" in outcome.stdout


def test_an_empty_folder_is_filled_and_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "rft-mine").mkdir()
    folder = new.write_package("algorithm", "mine", tmp_path)
    (tmp_path / "other").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert (folder / "pyproject.toml").is_file()


def test_names_agree(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "rft-mine"
    assert project["entry-points"] == {
        "rft.plugins": {"mine": "rft_mine.mine"},
        "rft.conf": {"mine": "rft_mine.conf"},
    }


@pytest.mark.parametrize("name", ["mine", "my_own", "a", "Z9"])
def test_what_is_written_is_in_good_style(tmp_path: Path, name: str) -> None:
    folder = new.write_package("algorithm", name, tmp_path)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_option_composes_with_documented_settings(package: Path, tmp_path: Path) -> None:
    """Found as an editable install is: by the folder on the path, and metadata."""
    info = tmp_path / "rft_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rft-mine\nVersion: 0.1.0\n", encoding="utf-8")
    entries = "[rft.plugins]\nmine = rft_mine.mine\n[rft.conf]\nmine = rft_mine.conf\n"
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    path = os.pathsep.join(map(str, (REPOSITORY, tmp_path, package)))
    outcome = rft(["run", "algorithm=mine", "--cfg", "job"], tmp_path, tmp_path / "store", PYTHONPATH=path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "_target_: rft_mine.mine.Mine" in outcome.stdout
    assert "samples_per_prompt: 4" in outcome.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("re-max", ["NAME=re-max", "as in 're_max'"]),
        ("2max", ["NAME=2max", "as in 'max'"]),
        ("über", ["NAME=über"]),
        ("a__b", ["NAME=a__b", "as in 'a_b'"]),
        ("x_", ["as in 'x'"]),
        ("../x", ["NAME=../x"]),
        ("lambda", ["NAME=lambda", "lambda_x"]),
        ("match", ["match_x"]),
        ("conf", ["conf_x"]),
        ("null", ["YAML", "null_x"]),
        ("true", ["YAML"]),
        ("inf", ["Hydra"]),
        ("on", ["YAML"]),
        ("config", ["class Config", "config_x"]),
        ("rollouts", ["class Rollouts"]),
        ("sequences", ["class Sequences"]),
        ("ppo", ["algorithm=ppo", "rft itself"]),
        ("PPO", ["algorithm=ppo", "rft itself"]),
    ],
)
def test_a_name_that_will_not_do_is_refused(tmp_path: Path, name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        new.write_package("algorithm", name, tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rft-mine").mkdir()
    (tmp_path / "rft-mine" / "work.py").write_text("mine")
    outcome = rft(["new", "algorithm", "mine"], tmp_path, tmp_path / "store")
    assert "rft-mine: is there already" in outcome.error
    assert [p.name for p in tmp_path.rglob("*")] == ["rft-mine", "work.py"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        new.write_package("algorithm", "mine", tmp_path / "file" / "below")


def test_a_fault_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last file's folder would have to stand where a file stands."""
    broken = tmp_path / "templates" / "algorithm"
    broken.mkdir(parents=True)
    for name in ("a.j2", "a", "b.j2"):
        (broken / name).write_text("text") if name.endswith(".j2") else (broken / name).mkdir()
    (broken / "a" / "c.j2").write_text("text")
    monkeypatch.setattr(new, "TEMPLATES", tmp_path / "templates")
    (tmp_path / "into").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        new.write_package("algorithm", "mine", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
