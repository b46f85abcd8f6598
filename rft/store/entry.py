"""One entry of the store on disk: a folder of files and ``manifest.json`` with the sha256 of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rft.store.canonical import Json, sha256_of

MANIFEST = "manifest.json"
FIELDS = frozenset(
    (
        "stage",
        "key",
        "version",
        "config",
        "inputs",
        "files",
        "digest",
        "metrics",
        "cost",
        "created",
        "rft_version",
    )
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished result of a stage.

    `key` (64 hex digits) says what was asked for: the hash of stage, version, config and inputs. `digest`
    (64 hex digits) says what came out: the hash over names and sha256 sums of the files, free of times.
    """

    stage: str
    key: str
    digest: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the stage measured about its own result."""
        metrics: Mapping[str, Any] = self.manifest["metrics"]
        return metrics

    @property
    def cost(self) -> Mapping[str, Any]:
        """``seconds`` of wall clock, ``cpu_seconds`` and ``peak_rss_bytes`` of the process that built it."""
        cost: Mapping[str, Any] = self.manifest["cost"]
        return cost

    @property
    def inputs(self) -> Mapping[str, str]:
        """Keys of the entries that this one was made from, by name."""
        inputs: Mapping[str, str] = self.manifest["inputs"]
        return inputs

    @property
    def created(self) -> datetime:
        """When it was finished (UTC)."""
        return datetime.fromisoformat(self.manifest["created"])

    @property
    def size(self) -> int:
        """Bytes of all its files, by the manifest."""
        return sum(int(file["bytes"]) for file in self.manifest["files"].values())


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of an entry on disk: `file` (relative to `path`) and what is wrong with it."""

    stage: str
    path: Path
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.path.name}/{self.file}: {self.reason}"


def file_sha256(path: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, dict[str, Json]]:
    """``{relative name: {"sha256", "bytes"}}`` of every file under `folder`, sorted by name.

    Raises ValueError for a symbolic link (the entry would depend on what lies elsewhere) and for a file
    called ``manifest.json``, a name that belongs to the store.
    """
    files: dict[str, dict[str, Json]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"{name} is a symbolic link: a store entry must hold its own files")
        if not path.is_file():
            continue
        if name == MANIFEST:
            raise ValueError(f"a stage may not write {MANIFEST}: the store does")
        files[name] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    return dict(sorted(files.items()))


def digest_of(files: Mapping[str, Mapping[str, Json]]) -> str:
    """64 hex digits over names and sums of the files."""
    return sha256_of({name: file["sha256"] for name, file in files.items()})


def seal(manifest: Mapping[str, Json]) -> str:
    """The manifest's text with a ``checksum`` over all the rest, so that a flip in itself is found too."""
    body = dict(manifest)
    body["checksum"] = sha256_of(body)
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n"


def load(stage: str, path: Path) -> Entry | Problem | None:
    """The entry in folder `path` by its manifest alone, without hashing; None where there is no entry."""
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        return Problem(stage, path, MANIFEST, "is missing") if path.is_dir() else None
    except NotADirectoryError:
        return None
    try:
        manifest = json.loads(text)
    except ValueError as error:
        return Problem(stage, path, MANIFEST, f"is not readable as JSON ({error})")
    if not isinstance(manifest, dict) or not manifest.keys() >= FIELDS:
        return Problem(stage, path, MANIFEST, "lacks fields that every manifest has")
    checksum = manifest.pop("checksum", None)
    if checksum != sha256_of(manifest):
        return Problem(stage, path, MANIFEST, "does not match its own checksum")
    if manifest["stage"] != stage or manifest["key"][: len(path.name)] != path.name:
        return Problem(stage, path, MANIFEST, f"belongs to {manifest['stage']}/{manifest['key'][:16]}")
    return Entry(stage, manifest["key"], manifest["digest"], path, manifest)


def check(entry: Entry) -> list[Problem]:
    """Hash every file of `entry` and compare; extra files are no fault (nothing reads them)."""
    problems = []
    for name, expected in entry.manifest["files"].items():
        reason = _fault(entry.path / name, expected)
        if reason:
            problems.append(Problem(entry.stage, entry.path, name, reason))
    return problems


def _fault(path: Path, expected: Mapping[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"does not match its sha256: it has {size} bytes, {expected['bytes']} expected"
        sha256 = file_sha256(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if sha256 != expected["sha256"]:
        return f"does not match its sha256 {expected['sha256'][:12]}…: it has {sha256[:12]}…"
    return None
