"""docs/your-algorithm.md works from top to bottom: its commands are run in order, its files are written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.harness import REPOSITORY, Result
from tests.integration.plugin_environment import Environment

PAGE = REPOSITORY / "docs" / "your-algorithm.md"
PACKAGE = REPOSITORY / "tests" / "plugin_package"


@dataclass(frozen=True)
class Block:
    """A fenced block: what it says it is, and what it holds."""

    info: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is, by ``title="…"``."""
        found = re.search(r'title="([^"]+)"', self.info)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(info, text) for info, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)]


def script(page: str) -> str:
    """A page as one shell script: its commands, and its files written between them."""
    lines = []
    for block in blocks(page):
        if block.info == "bash":
            lines += ["set -x", block.text.rstrip(), "{ set +x; } 2>/dev/null"]
        elif block.file:
            where = shlex.quote(block.file)
            # It replaces a file: a wrong path would make a new one that nothing reads.
            lines += [f"test -f {where}", f"cat > {where} <<'END_OF_FILE'", block.text.rstrip(), "END_OF_FILE"]
    return "\n".join(lines) + "\n"


def files(folder: Path) -> dict[str, str]:
    """What a package holds, by path."""
    return {
        p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8")
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith((".", "__pycache__")) for part in p.relative_to(folder).parts)
    }


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(1200)
def test_the_page_works_as_it_stands(assets: Path, tmp_path: Path) -> None:
    shutil.copytree(assets, tmp_path / "store" / "asset")
    commands = script(PAGE.read_text(encoding="utf-8"))
    outcome = Environment(tmp_path / "env").shell(commands, tmp_path, tmp_path / "store")
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert "warning" not in outcome.stderr
    # What the reader has at the end is what the other tests install.
    assert files(tmp_path / "rft-remax") == files(PACKAGE)
    arms = {path.parent.name.split("-")[0] for path in (tmp_path / "runs" / "mine").glob("*/trial.json")}
    assert arms == {"sft", "ppo", "remax"}
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    # The stages before the policy were shared by all trials, those before the change included.
    trials = [Result(path.parent, tmp_path) for path in (tmp_path / "runs").rglob("trial.json")]
    assert len(trials) == 10
    assert len({trial.digests["reward_model"] for trial in trials}) == 1


def test_the_page_has_what_the_test_looks_for() -> None:
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert {block.file for block in found} == {None, "rft-remax/rft_remax/remax.py", "rft-remax/tests/test_remax.py"}
    commands = "".join(block.text for block in found if block.info == "bash")
    wanted = ("rft new algorithm", "pip install -e", "rft check-algorithm", "pytest", "rft run -m", "rft compare")
    assert all(command in commands for command in wanted)
    assert {block.info.split()[0] for block in found} <= {"bash", "python", "text"}
    # The tests that `rft new` writes run as they are written, before the page changes the package.
    places = [i for i, block in enumerate(found) if block.file]
    assert any("pytest -q rft-remax/tests\n" in block.text for block in found[: min(places)])


def test_a_page_that_does_not_work_is_noticed(tmp_path: Path) -> None:
    def code(page: str) -> int:
        return subprocess.run(["bash", "-euo", "pipefail", "-c", script(page)], cwd=tmp_path, check=False).returncode

    assert code('```bash\ntouch a.py\n```\n```python title="a.py"\nx = 1\n```\n```bash\ngrep "x = 1" a.py\n```\n') == 0
    assert code("```bash\ntrue\nfalse\ntrue\n```\n") != 0
    assert code('```python title="no.py"\nx = 1\n```\n') != 0
    assert code("```text\nfalse\n```\n") == 0
