"""Whether this processor multiplies bfloat16 faster than float32: measured, and kept for as long as nothing changes.

Flags of a processor say what it can, not how fast: without AVX512-BF16 or AMX bfloat16 is converted and slow, and some
libraries make no use of what is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import cache
from pathlib import Path

import torch

from rft.machine import machine
from rft.store.locking import file_lock
from rft.store.whole import write_whole

SHAPE = (1024, 1024, 1024)  # of a product as a small model's layer makes it of a batch
TRIES = 5
SECONDS = 1.0  # after which nothing more is tried
MARGIN = 1.25  # by which bfloat16 must be the faster: what is closer to even is not worth its rounding


def product_seconds(dtype: torch.dtype, limit: float = SECONDS / 2) -> float:
    """The shortest time of a matrix product on this process's threads.

    Args:
        dtype: of its matrices.
        limit: seconds after which no other try begins.
    """
    n, k, m = SHAPE
    a, b = torch.ones(n, k, dtype=dtype), torch.ones(k, m, dtype=dtype)
    a @ b
    best, began = float("inf"), time.perf_counter()
    for _ in range(TRIES):
        start = time.perf_counter()
        a @ b
        now = time.perf_counter()
        best = min(best, now - start)
        if now - began > limit:
            break
    return best


def faster_in_bf16() -> bool:
    """Whether products are faster in bfloat16 by ``MARGIN``."""
    return product_seconds(torch.float32) > MARGIN * product_seconds(torch.bfloat16)


@cache
def bf16_pays(folder: Path) -> bool:
    """``faster_in_bf16`` as first found on this kind of machine: all trials must have the same answer.

    Args:
        folder: where it is kept, if it can be written.
    """
    about = _about()
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    file = folder / f"precision-{name}.json"
    if (kept := _kept(file)) is not None:  # in a folder that can only be read, which has no lock, too
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".precision.lock"):
            if (kept := _kept(file)) is None:
                kept = faster_in_bf16()
                write_whole(file, json.dumps(about | {"bf16_pays": kept}, indent=1).encode())
            return kept
    except OSError:  # a folder that can only be read
        return faster_in_bf16()


def _kept(file: Path) -> bool | None:
    try:
        return bool(json.loads(file.read_text(encoding="utf-8"))["bf16_pays"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _about() -> dict[str, str]:
    """What the answer depends on."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": str(machine()["processor"]), "capability": capability, "torch": str(torch.__version__)}
