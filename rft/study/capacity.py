"""What this machine has for trials: cores, memory, GPUs. Asked without torch, whose question would occupy a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from rft.machine import machine
from rft.runtime import cores
from rft.study.slots import VISIBLE, Machine

SECONDS = 10
NVIDIA, AMD = Path("/proc/driver/nvidia/gpus"), Path("/sys/class/kfd/kfd/topology/nodes")
CGROUP = Path("/sys/fs/cgroup/memory.max")


def this_machine() -> Machine:
    """Cores and memory that this process may use, and GPUs that it may see."""
    return Machine(cores(), memory(), gpus())


def memory() -> int:
    """Bytes, of the machine or of the container that this process is in; 0 if nothing tells."""
    known = [machine()["memory_bytes"] or 0]
    with suppress(OSError, ValueError):  # no container, or "max"
        known.append(int(CGROUP.read_text(encoding="ascii")))
    return min((one for one in known if one), default=0)


def gpus() -> tuple[str, ...]:
    """As ``CUDA_VISIBLE_DEVICES`` names them if it is set, which may hide all; else numbers of those that are there."""
    said = os.environ.get(VISIBLE)
    if said is not None:
        names = [name.strip() for name in said.split(",")]
        return tuple(name for name in names if name and name != "-1")
    return tuple(map(str, range(_count())))


def _count() -> int:
    if NVIDIA.is_dir():
        return len(list(NVIDIA.iterdir()))
    if AMD.is_dir():
        return sum(_computes(node / "properties") for node in AMD.iterdir())
    if not Path("/dev/dxg").exists() or shutil.which("nvidia-smi") is None:
        return 0
    try:
        done = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _computes(properties: Path) -> bool:
    """Whether a node of AMD's list is a GPU; processors are nodes too."""
    try:
        lines = properties.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(line.startswith("simd_count") and line.split()[-1] != "0" for line in lines)
