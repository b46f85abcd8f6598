"""Gives Hydra the schema of an option when it is asked for, so that of options not chosen nothing is executed."""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from rft.config.options import GROUPS, NOBODY, SECOND, options, schema
from rft.errors import UserError

SCHEME, ROOT = "rft-schema", "schema"


class SchemaSource(ConfigSource):
    """Nodes ``schema/group/name`` of the search path ``rft-schema://``, and the options of groups' second places.

    An option ``eval_judge/name`` is the option ``judge/name`` at another package; ``eval_judge/none`` holds nothing.
    """

    @staticmethod
    def scheme() -> str:
        """What its path on the search path begins with."""
        return SCHEME

    @staticmethod
    def _key(config_path: str) -> tuple[str, str] | None:
        root, _, rest = config_path.strip("/").removesuffix(".yaml").partition("/")
        group, _, name = rest.partition("/")
        return (group, name) if root == ROOT and name else None

    @staticmethod
    def _second(config_path: str) -> tuple[str, str] | None:
        place, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        return (SECOND[place], name) if place in SECOND and name else None

    def load_config(self, config_path: str) -> ConfigResult:
        """The schema of an option, or an option for its second place.

        Raises:
            ConfigLoadError: if there is none.
            ConfigCompositionException: if it cannot be read; tab completion offers nothing then.
        """
        if second := self._second(config_path):
            if not self.is_config(config_path):
                raise ConfigLoadError(f"{config_path}: no such option")
            brought = [] if second[1] == NOBODY else [f"/{'/'.join(second)}@_here_"]
            start = OmegaConf.create({"defaults": [*brought, "_self_"]})
            return ConfigResult(provider=self.provider, path=f"{SCHEME}://", config=start, header={"package": None})
        key = self._key(config_path)
        try:
            node = schema(*key) if key else None
        except UserError as error:
            raise ConfigCompositionException(str(error)) from error
        if node is None:
            raise ConfigLoadError(f"{config_path}: no option has this schema")
        return ConfigResult(
            provider=self.provider, path=f"{SCHEME}://", config=OmegaConf.create(node), header={"package": None}
        )

    def is_group(self, config_path: str) -> bool:
        """Whether options may be below."""
        return config_path.strip("/") in (ROOT, *SECOND, *(f"{ROOT}/{group}" for group in GROUPS))

    def is_config(self, config_path: str) -> bool:
        """Whether there is such an option; it is not executed for that."""
        second = self._second(config_path)
        there = {option.key for option in options()}
        return self._key(config_path) in there or second in there or (second is not None and second[1] == NOBODY)

    def available(self) -> bool:
        """It always is."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Groups, or the options of one."""
        group = config_path.strip("/").removeprefix(ROOT).strip("/")
        if not group:
            return [] if results_filter is ObjectType.CONFIG else sorted(GROUPS)
        names = {option.name for option in options() if option.group == SECOND.get(group, group)}
        names |= {NOBODY} if group in SECOND else set()
        return [] if results_filter is ObjectType.GROUP else sorted(names)
