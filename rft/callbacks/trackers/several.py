"""Several trackers at once, each with its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rft.callbacks.trackers.base import Tracker
from rft.config import build


@dataclass
class Config:
    """Settings of several trackers."""

    of: list[str] = field(default_factory=lambda: ["offline", "tensorboard"])
    """Which ones, by the names of their options: tracker.of=[offline,mlflow]."""
    settings: dict[str, Any] | None = None
    """Settings of single ones: 'tracker.settings={wandb:{project:mine}}'."""

    def nodes(self) -> list[dict[str, Any]]:
        """The configuration of each.

        Raises:
            UserError: for a name that no option has.
        """
        from rft.config.options import node_of

        return [node_of("tracker", name, (self.settings or {}).get(name) or {}) for name in self.of]

    def conflict(self) -> str | None:
        """What is wrong with the names or the settings, from the key on; None if all is well."""
        from rft.config.compose import check_group
        from rft.config.options import names
        from rft.errors import UserError, nearest

        known = [name for name in names("tracker") if name != "several"]
        for name in self.of:
            if name not in known:
                return f"of: there is no tracker {name!r} to be one of several; {nearest(name, known)}"
        if len(set(self.of)) < len(self.of) or not self.of:
            return f"of={self.of}: name each tracker once, and one at least; tracker=none is for none"
        for name in self.settings or {}:
            if name not in self.of:
                return f"settings.{name}: is not among tracker.of; {nearest(name, self.of)}"
        kinds: dict[str, str] = {}
        try:
            for name, node in zip(self.of, self.nodes(), strict=True):
                check_group(f"tracker.settings.{name}", node)
                if (other := kinds.setdefault(str(node["_target_"]), name)) != name:
                    return f"of: {other} and {name} are the same run in two modes; name one of them"
        except UserError as error:
            return str(error).removeprefix("tracker.")
        return None


class Several(Tracker):
    """Tells each of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._trackers: list[Tracker] = [build(node) for node in config.nodes()]

    def parts(self) -> Sequence[Tracker]:
        """All of them."""
        return [part for tracker in self._trackers for part in tracker.parts()]
