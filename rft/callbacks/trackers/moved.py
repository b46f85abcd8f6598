"""What is mended in the records of a W&B run before they are uploaded.

Of a run in a folder that was moved or copied, where the files of its artifacts lie is brought up to date. Of one that
was ended while its server was silent, and then once more with W&B itself, one end is left: its command fails at two.

W&B writes a run as a log of records in blocks (the log format of LevelDB, with a CRC-32). In it are the absolute paths
of the files of its artifacts, which lie in W&B's folder beside the run.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rft.store.whole import write_whole

BLOCK = 32768
"""Bytes; no piece of a record goes beyond one."""
HEAD = struct.Struct("<IHB")
"""Before each piece: its checksum, its bytes, which piece of its record it is. The file's own has the same length."""
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
KEPT = "data"
"""In W&B's folder: the files of artifacts."""


def bring_home(run: Path) -> bool:
    """Let the records of a run name the files beside it, if those that they name are gone, and end once.

    Args:
        run: folder of the run, in W&B's folder.

    Returns:
        Whether anything was changed.
    """
    changed = False
    for file in run.glob("run-*.wandb"):
        content = file.read_bytes()
        records, read = _records(content)
        found = _ended_once([_at_home(record, run.absolute().parent) for record in records])
        if found != records:
            write_whole(file, content[: HEAD.size] + _log(found) + content[read:])
            changed = True
    return changed


def _records(content: bytes) -> tuple[list[bytes], int]:
    """All whole records, and where they end: a process that was killed may have left a part of one."""
    records: list[bytes] = []
    pieces: list[bytes] = []
    end = HEAD.size
    for kind, piece, after in _pieces(content):
        pieces = [piece] if kind in (WHOLE, FIRST) else [*pieces, piece]
        if kind in (WHOLE, LAST):
            records.append(b"".join(pieces))
            end = after
    return records, end


def _pieces(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    at = HEAD.size
    while True:
        if BLOCK - at % BLOCK < HEAD.size:
            at += BLOCK - at % BLOCK
        if at + HEAD.size > len(content):
            return
        checksum, length, kind = HEAD.unpack_from(content, at)
        at += HEAD.size
        piece = content[at : at + length]
        if len(piece) < length or _checksum(kind, piece) != checksum:
            return
        at += length
        yield kind, piece, at


def _checksum(kind: int, piece: bytes) -> int:
    return zlib.crc32(piece, zlib.crc32(bytes([kind])))


def _log(records: list[bytes]) -> bytes:
    """The records as they stand in the file, after its header."""
    out = bytearray()
    for record in records:
        rest, first = record, True
        while first or rest:
            room = BLOCK - (HEAD.size + len(out)) % BLOCK
            if room < HEAD.size:
                out += bytes(room)
                continue
            piece, rest = rest[: room - HEAD.size], rest[room - HEAD.size :]
            kind = (LAST if not rest else MIDDLE) if not first else WHOLE if not rest else FIRST
            out += HEAD.pack(_checksum(kind, piece), len(piece), kind) + piece
            first = False
    return bytes(out)


def _parsed(record: bytes) -> Any:
    from wandb.proto import wandb_internal_pb2

    parsed: Any = vars(wandb_internal_pb2)["Record"]()  # a name that is made when it is imported
    parsed.ParseFromString(record)
    return parsed


def _ended_once(records: list[bytes]) -> list[bytes]:
    """The same with the first of several ends, which has the run's own exit code, after all else."""
    ends = [record for record in records if _parsed(record).WhichOneof("record_type") == "exit"]
    return records if len(ends) < 2 else [*(one for one in records if one not in ends), ends[0]]


def _at_home(record: bytes, place: Path) -> bytes:
    """A record of an artifact with the paths of today; any other as it is."""
    parsed = _parsed(record)
    if parsed.WhichOneof("record_type") != "artifact":
        return record
    changed = False
    for one in parsed.artifact.manifest.contents:
        named, _, below = one.local_path.rpartition(f"/{place.name}/{KEPT}/")
        here = place / KEPT / below
        if named and not Path(one.local_path).exists() and here.is_file():
            one.local_path = str(here)
            changed = True
    return parsed.SerializeToString() if changed else record
