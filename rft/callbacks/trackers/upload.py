"""Uploads W&B runs that lie on this machine, by W&B's own command, and sees to it that it does what it says."""

from __future__ import annotations

import atexit
import netrc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rft.callbacks.trackers.moved import bring_home
from rft.callbacks.trackers.reach import unreachable, within
from rft.errors import UserError

OFFLINE = "offline-run-*"
ONLINE = "run-*"
STAGED = "data/artifacts/staging"
"""In W&B's folder: the files of artifacts that are to be uploaded."""
KEPT = "data/kept"
"""The same files once more, while they are uploaded."""
UNSENT = "unsent"
"""In the folder of an online run until all of it is uploaded."""
SECONDS = 5.0
"""Longest wait for a sign of life from the server."""
SILENT = 30.0
"""Seconds without one in which an upload is given up."""
PULSE = 0.2
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
"""Variables that hold a key or say where one is."""
NO_END = "the file ends with an incomplete record"
"""What W&B's command says of a run whose process was killed, after it has uploaded all else."""
BEHEADED = 7
"""Bytes of a run's file that holds no record; W&B's command cannot read it."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 300


@dataclass(frozen=True, slots=True)
class Target:
    """Where runs go, if not to where they were told to."""

    project: str | None = None
    entity: str | None = None

    def options(self) -> list[str]:
        """For W&B's command."""
        given = (("--project", self.project), ("--entity", self.entity))
        return [part for name, value in given if value for part in (name, value)]


def is_uploaded(folder: Path) -> bool:
    """Whether a run's folder has been uploaded, by the mark that W&B leaves."""
    return any(folder.glob("run-*.wandb.synced"))


def mark_uploaded(folder: Path) -> None:
    """Mark a run as W&B's command does, so that no earlier part of it is uploaded after it."""
    for file in folder.glob("run-*.wandb"):
        file.with_suffix(".wandb.synced").touch()
    (folder / UNSENT).unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a run's folder holds no record: its process was killed before there was one."""
    return all(file.stat().st_size <= BEHEADED for file in folder.glob("run-*.wandb"))


def kept_runs(place: Path) -> list[Path]:
    """Folders of runs in W&B's folder `place` that have to be uploaded, or were; the oldest first.

    Those that were offline, and of those that were online the ones that ended before all was uploaded.
    """
    unsent = (one for one in place.glob(ONLINE) if (one / UNSENT).exists() or is_uploaded(one))
    whole = [one for one in (*place.glob(OFFLINE), *unsent) if any(one.glob("run-*.wandb"))]
    return sorted(whole, key=lambda one: (_begun(one), one.stat().st_mtime_ns))


def run_id(folder: Path) -> str:
    """The id of the run in a folder."""
    return next(folder.glob("run-*.wandb")).stem.removeprefix("run-")


def _begun(folder: Path) -> str:
    """``YYYYMMDD_HHMMSS``: when a run began."""
    return folder.name.partition("run-")[2][:15]


def server() -> str:
    """Address of the server that runs would go to, whatever WANDB_MODE says: it is of runs that are to come.

    Raises:
        UserError: if W&B cannot make use of what is set, such as an address that is none.
    """
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True, mode="online"))
        return str(wandb.setup().settings.base_url)
    except ValueError as error:  # of several lines, the last of which says what is wrong
        told = " ".join(str(error).split())
        address = os.environ.get("WANDB_BASE_URL")
        raise UserError(f"WANDB_BASE_URL={address}: W&B does not take its settings: {told[:LONGEST]}") from error


def useless(base: str, seconds: float = SECONDS) -> str | None:
    """Why uploading to a server cannot work now: no key, no server, a key that it does not take; None if it may.

    Without a key nothing is contacted.

    Args:
        base: address of the server.
        seconds: that it has for each answer.
    """
    late = f"{base} takes no key within {seconds:g} s"
    if not _has_key(base):
        return f"there is no key for {base}: run `wandb login`, or set WANDB_API_KEY"
    return unreachable(base, seconds) or within(seconds, lambda: _refused(base), late)


def _has_key(base: str) -> bool:
    """Whether this machine has a key for a server, where W&B looks for one."""
    if any(os.environ.get(name) for name in KEYS):
        return True
    given = os.environ.get("NETRC")
    files = [Path(given)] if given else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(file).authenticators(urlsplit(base).hostname or ""):
                return True
    return False


def _refused(base: str) -> str | None:
    """Why a server does not know the user; None if it does."""
    import wandb

    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # of several kinds, by what is wrong with the key
        return first_line(error)
    return None if known else f"{base} does not take the key: run `wandb login`, or set WANDB_API_KEY"


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).partition("\n")[0].split()) or type(error).__name__


def upload(part: Path, base: str, target: Target = Target(), limit: float = float("inf")) -> str | None:
    """Upload the folder of a run. Broken off, it can be done again: only what is whole is marked.

    One without an end, of a process that was killed, is whole with the rows that it has.

    Args:
        part: the folder.
        base: address of the server, which is asked now and then for a sign of life.
        target: where it goes.
        limit: seconds that it may take.

    Returns:
        Why not all was uploaded; None if all was.
    """
    kept = _keep(part.parent)
    bring_home(part)
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *target.options(), str(part)]
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            command, env=_environment(part, scratch), stdin=subprocess.DEVNULL, stdout=told,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        atexit.register(_end, process)  # of a process that ends meanwhile, by Ctrl-C
        try:
            given_up = _wait(process, base, limit)
        finally:
            _end(process)
            atexit.unregister(_end)
        said = _said(told)
    faults = [line for line in said if "rror" in line or line.startswith("ERROR")]
    if not is_uploaded(part) and not given_up and faults and all(NO_END in line for line in faults):
        mark_uploaded(part)
    if not is_uploaded(part):
        ended = f"`wandb sync` ended with exit code {process.returncode}"
        return given_up or (faults or [*said, ended])[-1].removeprefix("ERROR ")[:LONGEST]
    (part / UNSENT).unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    return None


def _keep(place: Path) -> Path:
    """Second names for the files of artifacts in W&B's folder; where they are.

    W&B removes a file that it has tried to upload, whether it could or not. Those that an upload before this one has
    lost so are there again.
    """
    staged, kept = place / STAGED, place / KEPT
    staged.mkdir(parents=True, exist_ok=True)
    kept.mkdir(exist_ok=True)
    for source, target in ((kept, staged), (staged, kept)):
        for file in source.iterdir():
            if file.is_file() and not (target / file.name).exists():
                try:
                    (target / file.name).hardlink_to(file)
                except OSError:  # a file system without them
                    shutil.copyfile(file, target / file.name)
    return kept


def _environment(folder: Path, scratch: str) -> dict[str, str]:
    """Without what forbids contact or takes words away; nothing is left in the working folder."""
    kept = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SILENT")}
    places = {f"WANDB_{name}_DIR": str(folder.parent.absolute() / name.lower()) for name in ("DATA", "CACHE")}
    return {**kept, **places, "WANDB_DIR": scratch, "WANDB_ERROR_REPORTING": "false"}


def _wait(process: subprocess.Popen[bytes], base: str, limit: float) -> str | None:
    """Wait for the end; why it was not waited for, if it was not."""
    begun = asked = heard = time.monotonic()
    while process.poll() is None:
        time.sleep(PULSE)
        now = time.monotonic()
        if now - begun > limit:
            return f"not all was uploaded within {limit:g} s"
        if now - asked < SECONDS:
            continue
        reason = unreachable(base, SECONDS)
        asked = time.monotonic()
        if reason is None:
            heard = asked
        elif asked - heard > SILENT:
            return reason
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End W&B's command, and what it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _said(told: IO[bytes]) -> list[str]:
    """The lines of W&B's command."""
    told.seek(0)
    lines = COLOURS.sub("", told.read().decode(errors="replace")).replace("\r", "\n").splitlines()
    said = [line.removeprefix("wandb:").strip() for line in lines]
    return [line for line in said if line]
