"""The configuration comes along: in a wheel as `rft/conf`, in a checkout as `conf/`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft.config import paths
from tests.architecture.source import CONF, PACKAGE, ROOT


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.yaml")}


def _run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_a_checkout_reads_its_own_conf() -> None:
    assert paths.conf_dir() == CONF


def test_a_package_without_conf_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.rft, "__file__", str(tmp_path / "rft" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="install rft again"):
        paths.conf_dir.__wrapped__()


@pytest.mark.assets
def test_a_wheel_carries_every_yaml(tmp_path: Path) -> None:
    """Marked assets because pip fetches the build backend."""
    _run("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT), cwd=tmp_path)
    (wheel,) = tmp_path.glob("rft-*.whl")
    site = tmp_path / "site"
    _run(
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
        cwd=tmp_path,
    )
    ask = "from rft.config.paths import conf_dir; print(conf_dir())"
    found = Path(_run("-c", ask, cwd=tmp_path, PYTHONPATH=str(site)))
    assert found == site / "rft" / "conf"
    assert _files(found) == _files(CONF)
    assert "config.yaml" in _files(found)
    assert (site / "bin" / "rft").is_file()
    assert (site / "rft" / "py.typed").is_file()
    templates = PACKAGE / "cli" / "templates"
    assert {p.relative_to(templates) for p in templates.rglob("*.j2")} == {
        p.relative_to(site / "rft" / "cli" / "templates") for p in site.glob("rft/cli/templates/**/*.j2")
    }
    assert not (site / "conf").exists()
    assert not (site / "tests").exists()
