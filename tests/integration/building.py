"""Notes every build of a store entry, in every process, from outside of rft: by the interpreter's own audit events."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

# As sitecustomize.py every interpreter that starts runs it. An entry is built in <store>/tmp/<stage>.<key>.<random> and
# appears by a rename to <store>/<stage>/<key>.
_NOTES = """
import os, sys

store, file = os.environ["RFT_STORE"], {file!r}


def note(event, arguments):
    if event == "os.mkdir":
        what, place = "begun", str(arguments[0])
    elif event == "os.rename":
        what, place = "made", str(arguments[0])
    else:
        return
    # Also asked for are folders that are there already; within a build, files are renamed.
    name = os.path.basename(place)
    if os.path.dirname(place) == os.path.join(store, "tmp") and name.count(".") == 2:
        with open(file, "a") as notes:
            notes.write(f"{{what}} {{name}} {{os.getpid()}}\\n")


sys.addaudithook(note)
"""
Key = tuple[str, str]
"""Stage, and the first digits of an entry's key."""


class Building:
    """What processes build that have `folder` on their path.

    Args:
        folder: gets a ``sitecustomize.py``, and the notes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "built.txt"
        self._file.touch()
        (folder / "sitecustomize.py").write_text(_NOTES.format(file=str(self._file)), encoding="utf-8")

    def _of(self, what: str) -> dict[str, int]:
        """Process id by the name of the folder in which an entry is built: each build has another."""
        lines = [line.split() for line in self._file.read_text(encoding="utf-8").splitlines()]
        return {name: int(pid) for kind, name, pid in lines if kind == what}

    @property
    def begun(self) -> Counter[Key]:
        """How often each entry's build began."""
        return Counter(map(_key, self._of("begun")))

    @property
    def made(self) -> Counter[Key]:
        """How often each entry came into the store."""
        return Counter(map(_key, self._of("made")))

    @property
    def cut_off(self) -> dict[int, set[Key]]:
        """By process id: builds that began and came to nothing."""
        left, made = defaultdict[int, set[Key]](set), self._of("made")
        for name, pid in self._of("begun").items():
            if name not in made:
                left[pid].add(_key(name))
        return dict(left)


def _key(name: str) -> Key:
    stage, key, _ = name.split(".")
    return stage, key
