"""The store: stage results addressed by what was asked for, computed once by whichever process asks first.

Layout under the root::

    <stage>/<key[:16]>/        files and manifest.json; appears by one rename, so it is whole or absent
    tmp/<stage>.<key[:16]>.*/  being built; stale when nobody holds the entry's lock
    quarantine/…               entries whose sums did not match, kept for a look until ``gc``
    locks/<stage>.<key[:16]>   one lock file an entry; the kernel frees the lock of a killed process
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import rft
from rft.errors import UserError
from rft.progress import track
from rft.store.canonical import Json, plain, sha256_of
from rft.store.cost import COST, Clock
from rft.store.entry import MANIFEST, Entry, Problem, check, describe_files, digest_of, load, seal
from rft.store.locking import file_lock
from rft.store.space import unwritten

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

SHORT = 16
STAGE = re.compile(r"[a-z][a-z0-9_-]*")
HEX64 = re.compile(r"[0-9a-f]{64}")
SHORT_KEY = re.compile(rf"[0-9a-f]{{{SHORT}}}")
SCRATCH_NAME = re.compile(rf"({STAGE.pattern})\.({SHORT_KEY.pattern})\.[0-9a-f]{{8}}")
TMP, QUARANTINE, LOCKS = "tmp", "quarantine", "locks"
RESERVED = frozenset((TMP, QUARANTINE, LOCKS))

Build = Callable[[Path], Mapping[str, Any] | None]

# Entries whose sums this process has checked: folder -> identity of the manifest that was checked.
_verified: dict[Path, tuple[int, int]] = {}


class BeingMadeError(Exception):
    """Another process makes the entry, and the store was not to wait for it."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What ``gc`` removed, or would remove: `kind` is ``tmp``, ``quarantine`` or ``entry``; size in bytes."""

    kind: str
    path: Path
    bytes: int


class Store:
    """Entries under one root folder. Making the object touches nothing; a read-only root can be read."""

    def __init__(self, root: Path, code: Mapping[str, str] | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self._code = dict(code or {})
        self.computed: set[str] = set()  # keys of the entries that this object built itself
        self.waits = True  # for what another process makes, see `rft.store.order`

    def with_code(self, stage: str, digest: str) -> Store:
        """The same store, in which entries of a stage have a digest of code in their address."""
        store = Store(self.root, self._code | {stage: digest})
        store.computed = self.computed
        return store

    @classmethod
    def default(cls) -> Store:
        """The store in ``$RFT_STORE``, or in the user's cache folder."""
        if root := os.environ.get("RFT_STORE"):
            return cls(Path(root))
        import platformdirs

        return cls(Path(platformdirs.user_cache_dir("rft")))

    @staticmethod
    def key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """64 hex digits: sha256 over the canonical JSON of what decides the result.

        `inputs` maps a name to the key of another entry. TypeError or ValueError for what is no finite JSON
        data, a stage name that is no folder name, or an input that is no key.
        """
        _require_stage(stage)
        for name, value in inputs.items():
            if not HEX64.fullmatch(value):
                raise ValueError(f"input {name!r} of stage {stage!r} is {value!r}: the key of an entry is wanted")
        return sha256_of(_request(stage, version, config, inputs))

    def find(self, stage: str, key: str) -> Entry | None:
        """The entry, its files checked against their sha256 (once a process), or None.

        A corrupt entry is reported with the file's name, moved aside, and counts as absent.
        """
        found = self._read(stage, key)
        if not isinstance(found, Problem):
            return found
        try:
            with self._locked(stage, key, wait=False) as held:
                # Without the lock another process is already replacing the entry.
                return self._read_or_quarantine(stage, key) if held else None
        except UserError:
            logger.warning("corrupt store entry: %s; the store is read-only, so it stays where it is", found)
            return None

    def inspect(self, stage: str, key: str) -> Entry | Problem | None:
        """The entry, its files checked as by ``find``, or what is wrong with it, or None. Moves and changes nothing."""
        return self._read(stage, key)

    def peek(self, stage: str, key: str) -> Entry | None:
        """The entry by its manifest alone, its files unchecked; None if there is none with a sound manifest."""
        found = load(stage, self._folder(stage, key))
        return found if isinstance(found, Entry) and found.key == key else None

    def get_or_compute(
        self,
        stage: str,
        *,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        build: Build,
    ) -> Entry:
        """The entry for this request; if there is none, ``build(folder)`` writes its files, returns metrics.

        When several processes ask at once, one builds and the others wait for it. What `build` raises goes on
        to the caller and leaves nothing behind. UserError if the disk is full or the root cannot be written;
        BeingMadeError if another process builds and `waits` is off.
        `cost` covers all of `build`, also entries that it asks for itself. NaN in metrics is kept as None.
        """
        if stage in self._code:
            config = {**config, "code": self._code[stage]}
        key = self.key(stage, version, config, inputs)
        found = self._read(stage, key)
        if isinstance(found, Entry):
            return found
        with self._locked(stage, key, wait=self.waits) as held:
            if not held:
                raise BeingMadeError(stage)
            found = self._read_or_quarantine(stage, key)
            if found is None:
                self._drop_stale(stage, key)
                found = self._build(key, _request(stage, version, config, inputs), build)
                self.computed.add(key)
            return found

    def entries(self) -> Iterator[Entry]:
        """Every entry with a sound manifest, by stage and age; files are not checked (``verify`` does)."""
        loaded = (load(stage, path) for stage, path in self._folders())
        yield from sorted((e for e in loaded if isinstance(e, Entry)), key=lambda e: (e.stage, e.created, e.key))

    def stages(self) -> list[str]:
        """Names of the stages that have entries, sound or not."""
        return sorted({stage for stage, _ in self._folders()})

    def verify(self) -> list[Problem]:
        """Hash every file of every entry anew; what does not match. Moves and changes nothing."""
        problems = []
        for stage, path in track(list(self._folders()), "verifying the store"):
            entry = load(stage, path)
            found = check(entry) if isinstance(entry, Entry) else [entry] if entry else []
            if found:
                _verified.pop(path, None)
            problems += found
        return problems

    def gc(
        self,
        *,
        older_than: timedelta | None = None,
        stages: Collection[str] = (),
        everything: bool = False,
        dry_run: bool = False,
    ) -> list[Removed]:
        """Remove leftovers of killed builds and quarantined entries, and the entries that were asked for.

        Entries go if they are older than `older_than` and of one of `stages` (a condition counts only if it
        is given), or all of them with `everything`. Only folders that the store itself named are touched,
        and none whose lock another process holds.
        """
        doomed = [("tmp", path) for path in self._scratch(TMP)]
        doomed += [("quarantine", path) for path in self._scratch(QUARANTINE)]
        if everything or older_than is not None or stages:
            doomed += [("entry", path) for path in self._selected(older_than, stages)]
        return [removed for kind, path in doomed if (removed := self._remove(kind, path, dry_run))]

    def _folder(self, stage: str, key: str) -> Path:
        _require_stage(stage)
        if not HEX64.fullmatch(key):
            raise ValueError(f"{key!r} is no key: 64 hex digits are wanted")
        return self.root / stage / key[:SHORT]

    def _read(self, stage: str, key: str) -> Entry | Problem | None:
        path = self._folder(stage, key)
        # First of all: another process may move the entry aside, and put a new one there, at any moment.
        identity = _identity(path)
        found = load(stage, path)
        if not isinstance(found, Entry):
            return found
        if found.key != key:
            return Problem(stage, path, MANIFEST, f"belongs to the key {found.key}")
        if identity is None or _verified.get(path) != identity:
            if problems := check(found):
                return problems[0]
            if identity is not None:
                _verified[path] = identity
        return found

    def _read_or_quarantine(self, stage: str, key: str) -> Entry | None:
        """Read under the lock; a corrupt entry is moved aside, and reported."""
        found = self._read(stage, key)
        if not isinstance(found, Problem):
            return found
        aside = self._new_scratch(QUARANTINE, stage, key)
        with self._writing(f"moving corrupt {found} aside"):
            aside.parent.mkdir(exist_ok=True)
            found.path.rename(aside)
        _verified.pop(found.path, None)
        logger.warning("corrupt store entry: %s; moved to %s, it will be computed again", found, aside)
        return None

    def _folders(self) -> Iterator[tuple[str, Path]]:
        """(stage, folder) of what is named like an entry; what else lies under the root is left alone."""
        if not self.root.is_dir():
            return
        for stage in sorted(self.root.iterdir()):
            if stage.name in RESERVED or not STAGE.fullmatch(stage.name) or not stage.is_dir():
                continue
            for path in sorted(stage.iterdir()):
                if SHORT_KEY.fullmatch(path.name) and path.is_dir():
                    yield stage.name, path

    def _build(self, key: str, request: dict[str, Json], build: Build) -> Entry:
        stage = cast(str, request["stage"])
        final = self._folder(stage, key)
        tmp = self._new_scratch(TMP, stage, key)
        try:
            with self._writing(f"computing stage {stage!r}"):
                tmp.mkdir(parents=True)
                final.parent.mkdir(exist_ok=True)
            clock = Clock()
            metrics = dict(build(tmp) or {})
            own = plain(metrics.pop(COST, {}), f"cost of {stage}", nan_to_none=True)
            cost = clock.read() | cast(dict[str, Json], own)
            files = describe_files(tmp)
            manifest: dict[str, Json] = {
                **request,
                "key": key,
                "files": cast(Json, files),
                "digest": digest_of(files),
                "metrics": plain(metrics, f"metrics of {stage}", nan_to_none=True),
                "cost": cost,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "rft_version": rft.__version__,
            }
            (tmp / MANIFEST).write_text(seal(manifest), encoding="utf-8")
            tmp.rename(final)
        except BaseException as error:
            shutil.rmtree(tmp, ignore_errors=True)
            if isinstance(error, UserError) or (told := unwritten(stage, error, self.root)) is None:
                raise
            raise UserError(told) from error
        entry = load(stage, final)
        if not isinstance(entry, Entry):
            raise RuntimeError(f"the entry just written cannot be read back: {entry}")
        if identity := _identity(final):
            _verified[final] = identity
        return entry

    def _new_scratch(self, where: str, stage: str, key: str) -> Path:
        return self.root / where / f"{stage}.{key[:SHORT]}.{secrets.token_hex(4)}"

    def _drop_stale(self, stage: str, key: str) -> None:
        """Under the lock of an entry, whatever an earlier build of it left in tmp has no owner any more."""
        for path in self._scratch(TMP):
            if path.name.startswith(f"{stage}.{key[:SHORT]}."):
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _locked(self, stage: str, short: str, wait: bool = True) -> Iterator[bool]:
        """Hold the entry's lock; yields False, without it, if another process has it and `wait` is False."""
        path = self.root / LOCKS / f"{stage}.{short[:SHORT]}"
        lock = file_lock(path)
        with self._writing("making a lock file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _try_lock(lock)
            if not held and wait:
                logger.info("stage %s is being computed by another process: waiting for it", stage)
                lock.acquire(poll_interval=0.1)
                held = True
        try:
            yield held
        finally:
            if held:
                lock.release()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the store {self.root} cannot be written ({what}: {error.strerror or error}); "
                f"set RFT_STORE to a folder that you can write to and that has room"
            ) from error

    def _scratch(self, where: str) -> list[Path]:
        folder = self.root / where
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if SCRATCH_NAME.fullmatch(path.name))

    def _selected(self, older_than: timedelta | None, stages: Collection[str]) -> Iterator[Path]:
        limit = None if older_than is None else datetime.now(UTC) - older_than
        for stage, path in self._folders():
            if stages and stage not in stages:
                continue
            entry = load(stage, path)
            # An entry whose manifest is unreadable has no age: it is of no use to anyone and goes too.
            if limit is None or not isinstance(entry, Entry) or entry.created <= limit:
                yield path

    def _remove(self, kind: str, path: Path, dry_run: bool) -> Removed | None:
        if kind == "entry":
            stage, short = path.parent.name, path.name
        else:
            stage, short = path.name.split(".")[:2]
        if dry_run and not (self.root / LOCKS).is_dir():
            return Removed(kind, path, _bytes_under(path))
        with self._locked(stage, short, wait=False) as held:
            if not held:
                return None
            removed = Removed(kind, path, _bytes_under(path))
            if not dry_run:
                with self._writing(f"removing {path.relative_to(self.root)}"):
                    self._delete(kind, path, stage, short)
            return removed

    def _delete(self, kind: str, path: Path, stage: str, short: str) -> None:
        if kind == "entry":
            # Out of sight in one step first, so that no reader meets half an entry.
            _verified.pop(path, None)
            gone = self._new_scratch(TMP, stage, short)
            gone.parent.mkdir(exist_ok=True)
            path.rename(gone)
            path = gone
        shutil.rmtree(path)


def _require_stage(stage: str) -> None:
    if not STAGE.fullmatch(stage) or stage in RESERVED:
        raise ValueError(f"{stage!r} cannot be a stage name: lower-case letters, digits, '_' and '-' are wanted")


def _request(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Json]:
    return {
        "stage": stage,
        "version": version,
        "config": plain(config, f"config of {stage}"),
        "inputs": plain(inputs, f"inputs of {stage}"),
    }


def _try_lock(lock: BaseFileLock) -> bool:
    from filelock import Timeout

    # Timeout is an OSError: it must not reach the handler of a folder that cannot be written.
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = (path / MANIFEST).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _bytes_under(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
