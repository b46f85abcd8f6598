"""A launcher whose trials are small scripts: real processes that end in every way, in a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rft.study.executors.local import Plain
from rft.study.jobs import Job
from rft.study.launch import Launcher, Process
from rft.study.slots import Grant

ROOT = Path(__file__).parents[1]
# In place of a trial: notes its start, then does what its override says.
TRIAL = """
import json, os, signal, sys, time
from pathlib import Path

folder, act, world = Path(sys.argv[1]), sys.argv[2].removeprefix("act="), Path.cwd()
name = "-".join(folder.name.split("-")[:2])

def done():
    from rft.store import Store
    from rft.study.versions import versions

    make = lambda out: (out / "rows.txt").write_text(name) and {}
    entry = Store.default().get_or_compute("evaluation", version=1, config={"of": name}, inputs={}, build=make)
    record = {"status": "done", "arm": "a", "evaluation": entry.key, "versions": versions()}
    (folder / "trial.json").write_text(json.dumps(record))


def asked(*_):
    with (world / f"asked-{name}").open("a") as file:
        file.write("once")
    time.sleep(2.5)  # what it ends with takes a while, in which nobody is to ask again
    (folder / "trial.json").write_text(json.dumps({"status": "failed", "error": "interrupted; start it again"}))
    sys.exit(1)


if act == "wait":  # before it is known to have started
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with its launcher, as what is forked
if act in ("wait", "outlive"):
    signal.signal(signal.SIGTERM, asked)
with (world / "starts").open("a") as file:
    file.write(name + "\\n")
if act == "exit" and not (world / "exits-0").exists():
    print("last words")
    sys.exit(3)
if act == "nothing":
    sys.exit(0)
if act == "raise":
    raise ValueError("planted")
if act == "last":
    done()
    os.kill(os.getpid(), signal.SIGKILL)
if act == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if act in ("wait", "outlive"):
    while not (world / "go").exists():
        time.sleep(0.02)
done()
"""
LAUNCHER = """
import sys
from pathlib import Path
from rich.console import Console
from tests.scripted import Scripted, read

with Scripted(Console(stderr=True), Path("runs/s"), again=()) as launcher:
    launcher.run(read(sys.argv[1]), 2, "trials")
"""


class Scripted(Launcher):
    """Starts scripts."""

    def start(self, job: Job, grant: Grant) -> Process:
        """Start the script of a job."""
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            command = [sys.executable, "-c", TRIAL, str(job.folder), *job.overrides]
            return Plain(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def read(text: str) -> list[Job]:
    """The jobs that `start_launcher` has written."""
    return [Job(name, tuple(given), Path(at), False, "a", seed) for name, given, at, seed in json.loads(text)]


def start_launcher(world: Path, jobs: Sequence[Job]) -> subprocess.Popen[bytes]:
    """A launcher in a process of its own."""
    written = json.dumps([(job.name, job.overrides, str(job.folder), job.seed) for job in jobs])
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, written],
        cwd=world,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
