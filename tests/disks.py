"""Disks that are full or can only be read, and clocks that jump: real ones, for which some tests need root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(disk: Path, size: int) -> Iterator[Path]:
    """A file system of its own at a folder, of so many bytes."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk.mkdir(exist_ok=True)
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a disk takes root")
    try:
        yield disk
    finally:
        subprocess.run([str(umount), "-l", disk], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing be written in a folder any more, as when the kernel has found an error on its disk.

    It is mounted once more over itself, read-only: files that are open for writing would keep the disk itself from it.
    """
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not mount or subprocess.run([mount, "--bind", folder, folder], check=False).returncode:
        pytest.skip("mounting a folder takes root")
    try:
        subprocess.run([mount, "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run([str(umount), "-l", folder], check=True)


def fill(disk: Path, *, but: int) -> Path:
    """Take all room of a disk but some bytes; returns what takes it."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - but))
    return ballast


def faketime() -> str | None:
    """The library that lets a process see another time, if the system has it."""
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib64").glob("*/libfaketime.so.1")]
    return str(found[0]) if found else None


def clock(setting: Path) -> dict[str, str]:
    """The environment of a process whose clock is off by what a file says, such as ``-400d``, from one look to another.

    Its monotonic clock is the true one, as on a machine whose clock is set.
    """
    return {
        "LD_PRELOAD": str(faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
