"""Where a study's trials run, as ``rft compare``, ``resume`` and ``retry`` are told: in the words of ``rft run -m``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from omegaconf import OmegaConf

from rft.config.compose import compose_launcher
from rft.config.launchers import GROUP, PREFIX, Launch, Local, Submitit
from rft.config.overrides import keys_of, overridden
from rft.errors import UserError

SHARED = frozenset(f"{PREFIX}{one.name}" for one in fields(Launch))
"""Settings that every launcher has."""


def is_where(override: str) -> bool:
    """Whether an override says where trials run, and nothing of the trials."""
    return override.lstrip("+~").startswith((f"{GROUP}=", PREFIX))


@dataclass(frozen=True, slots=True)
class Where:
    """Where trials run."""

    overrides: tuple[str, ...] = ()
    """As they were given, to be kept."""
    settings: Launch = field(default_factory=Local)

    def with_jobs(self, jobs: int) -> Where:
        """The same with so many trials at once, unless their number was given."""
        return self if self.settings.jobs else replace(self, settings=replace(self.settings, jobs=jobs))

    def says(self, name: str) -> bool:
        """Whether a setting was given."""
        return any(key == f"{PREFIX}{name}" for _, key in keys_of(self.overrides))


def where(
    study: Path, given: Sequence[str], launcher: str | None = None, jobs: int = 0, kept: Sequence[str] = ()
) -> Where:
    """Where the trials of a study run.

    Args:
        study: the study's folder.
        given: overrides, all of Hydra's launcher.
        launcher: its name; with it, or with one among the overrides, what was kept for another one alone is dropped.
        jobs: trials at once; 0: not said.
        kept: overrides of before, which those that are given replace one by one.

    Raises:
        UserError: for what is wrong with them; one line, with the nearest that is there.
    """
    if foreign := [one for one in given if not is_where(one)]:
        raise UserError(f"{foreign[0]}: says nothing of where trials run; leave it out, or give {PREFIX}KEY=VALUE")
    named = [] if launcher is None else [f"{GROUP}={launcher}"]
    said = overridden(overridden(named, given), [f"{PREFIX}jobs={jobs}"] if jobs else [])
    if _chosen(said) and _chosen(said) != (_chosen(kept) or "local"):
        kept = [text for text, key in keys_of(kept) if key in SHARED]
    overrides = overridden(kept, said)
    settings = OmegaConf.to_object(compose_launcher(overrides))
    if not isinstance(settings, Launch):  # Hydra's own, which run on this machine
        settings = Local()
    found = Where(tuple(overrides), settings)
    if isinstance(settings, Submitit) and not found.says("folder"):
        found = replace(found, settings=replace(settings, folder=str(study / ".submitit")))
    return found


def _chosen(overrides: Sequence[str]) -> str | None:
    """The launcher that overrides choose."""
    return next((text.partition("=")[2] for text, key in keys_of(overrides) if key == GROUP), None)
