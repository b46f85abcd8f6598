"""Disks that are full or can only be read, and clocks that jump: real ones, for which some tests need root."""

from __future__ import annotations

import errno
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
    """Take all room of a disk but some bytes; returns what takes it.

    Other processes may write there meanwhile: what is free is asked for until no more is.
    """
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        before = None
        while (room := shutil.disk_usage(disk).free - but) > 0:
            try:
                file.write(bytes(room))
            except OSError as error:
                if error.errno != errno.ENOSPC or room == before:
                    raise
            before = room
    return ballast


SHIM = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, clock, now);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_OFF_BY"), "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds; fclose(file); }
    return done;
}
"""


def clock(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is off by what the file `off` in a folder says at that moment.

    Its monotonic clock is the true one, as on a machine whose clock is set.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("another clock takes a C compiler")
    source, library, off = folder / "clock.c", folder / "clock.so", folder / "off"
    source.write_text(SHIM, encoding="utf-8")
    off.write_text(str(seconds), encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFF_BY": str(off)}
