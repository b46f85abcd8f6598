"""Environments beside the present one, in which plugins are installed by pip."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.integration.harness import Outcome, environment

SCRIPTS = {
    "rft": "from rft.cli import main\nmain()\n",
    "pip": "import runpy\nrunpy.run_module('pip', run_name='__main__')\n",
    "pytest": "import runpy\nrunpy.run_module('pytest', run_name='__main__')\n",
}


class Environment:
    """A venv of its own that sees the packages of the present one; what is installed goes into it alone.

    ``python -m venv --system-site-packages`` would see those of the interpreter behind the present venv.
    """

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        (site,) = folder.glob("lib/python*/site-packages")
        present = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
        line = "; ".join(f"site.addsitedir({path!r})" for path in present)
        (site / "beside.pth").write_text(f"import site; {line}\n", encoding="utf-8")
        for name, code in SCRIPTS.items():
            (self.bin / name).write_text(f"#!{self.bin / 'python'}\n{code}", encoding="utf-8")
            (self.bin / name).chmod(0o755)

    def shell(self, script: str, cwd: Path, store: Path) -> Outcome:
        """Run a script as in a shell with the environment activated; it ends at the first command that fails."""
        own = {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(self.bin.parent)}
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        command = ["bash", "-euo", "pipefail", "-c", script]
        surroundings = environment(store, **own, **quiet)
        done = subprocess.run(
            command, cwd=cwd, env=surroundings, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return Outcome(done.returncode, done.stdout, done.stderr)
