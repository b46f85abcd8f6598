"""Tell a disk that takes no more from a fault of the program, also through libraries that wrap the system's error."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
DAMAGED = frozenset((errno.EROFS, errno.EIO))  # a file system with an error in it is made read-only by the kernel
# safetensors and tokenizers report Rust's wording, pyarrow and pip the C library's.
WORDS = ("No space left on device", "os error 28", "[Errno 28]", "Disk quota exceeded", "File too large")
DAMAGED_WORDS = {
    os.strerror(number): (os.strerror(number), f"os error {number})", f"[Errno {number}]") for number in DAMAGED
}
# torch.save names no cause at all; only the full disk itself gives it away.
TORCH_WORDS = ("PytorchStreamWriter failed", "unexpected pos")
NEARLY_FULL_BYTES = 1 << 20
SHARED = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs"}
    | {"pvfs2", "smb3", "smbfs", "virtiofs"}
)
"""File systems that several machines may have open at once, as Linux calls them; those of user space may be one too."""


def is_shared(folder: Path) -> bool:
    """Whether other machines may see this folder at the same moment; False where the system does not tell."""
    kind = _file_system(folder)
    return kind in SHARED or kind.startswith("fuse")


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, as /proc/self/mountinfo has it (proc(5)); empty if not known."""
    try:
        device = folder.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    return next((line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number), "")


def disk_full_reason(error: BaseException, folder: Path) -> str | None:
    """Why `error`, raised while writing in `folder`, means that there is no room; None if it does not."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            return cause.strerror
        message = str(cause)
        for words in WORDS:
            if words in message:
                return "No space left on device" if "28" in words else words
        if any(words in message for words in TORCH_WORDS) and shutil.disk_usage(folder).free < NEARLY_FULL_BYTES:
            return "No space left on device"
    return None


def damaged_disk_reason(error: BaseException) -> str | None:
    """Why `error` means that a disk has become read-only or has a fault; None if it does not."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in DAMAGED:
            return cause.strerror
        for reason, words in DAMAGED_WORDS.items():
            if any(one in str(cause) for one in words):
                return reason
    return None


def unwritten(stage: str, error: BaseException, root: Path) -> str | None:
    """What to tell of a stage that was not kept, if that is the disk's fault and not the program's; else None.

    Args:
        stage: that was computed.
        error: that ended it.
        root: of the store; what the error names may also lie in the trial's folder.
    """
    place = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else str(root)
    mine = Path(place).is_relative_to(root)
    elsewhere = "set RFT_STORE to a folder on another disk" if mine else "start from a folder on another disk"
    if reason := disk_full_reason(error, root):
        mend = f"Free some room{' (`rft store gc`)' if mine else ''} or {elsewhere}"
    elif reason := damaged_disk_reason(error):
        mend = f"See to that disk (`dmesg` may say more) or {elsewhere}"
    else:
        return None
    what = f"stage {stage!r} could not be written to {place}: {reason}"
    return f"{what}; nothing of it was kept. {mend}, then start again"


def full_disk_error() -> OSError:
    """The system's own error for a full disk, for a child process that met it."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
