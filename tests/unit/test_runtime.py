"""What a process asks of the system before its work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import os, time
from rft.runtime import prepare_process
prepare_process()
print(os.getpid(), flush=True)
time.sleep(60)
"""
FIRST = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {RANK!r}], env=os.environ | {{"LOCAL_RANK": "1"}})
"""


def runs(process: Path) -> bool:
    """What is left of an ended process until it is reaped has no command line."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_rank_ends_with_the_process_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        rank = Path("/proc") / first.stdout.readline().strip()
        assert runs(rank)
        first.kill()
    deadline = time.monotonic() + 10
    while runs(rank):
        assert time.monotonic() < deadline, "the rank outlived the first process"
        time.sleep(0.01)
