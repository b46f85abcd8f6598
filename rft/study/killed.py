"""Why a process that was killed was killed, as far as the kernel tells."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def memory_kills() -> int:
    """How often the kernel killed a process of this control group for want of memory; 0 where it does not say."""
    for file in map(Path, _EVENTS):
        try:
            found = re.search(r"^oom_kill (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def _in_kernel_log(pid: int) -> bool:
    try:
        told = subprocess.run(["dmesg"], capture_output=True, text=True, check=False, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(rf"Killed process {pid}\b", told) is not None


def why(code: int, pid: int | None, before: int) -> str:
    """Say why a process ended by a signal.

    Args:
        code: minus the signal's number.
        pid: the process's id.
        before: `memory_kills` when it started.
    """
    if -code == signal.SIGKILL and (memory_kills() > before or (pid is not None and _in_kernel_log(pid))):
        return "out of memory: killed by the kernel; give it more, or run fewer trials at once (hydra.launcher.jobs)"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else ""
    return f"killed by signal {-code}" + (f" ({name})" if name and -code != signal.SIGKILL else "")
