"""Objects from config: frozen settings in, runtime objects passed apart from them."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rft.config.extract import one_line
from rft.config.plugins import allowed_packages, is_ours
from rft.errors import UserError


def split_target(target: str) -> tuple[str, str]:
    """Module and class of a ``_target_``, which must come from an allowed package.

    Raises:
        UserError: if it comes from elsewhere.
    """
    module, _, name = target.rpartition(".")
    package = target.partition(".")[0]
    if package not in allowed_packages():
        raise UserError(
            f"_target_={target}: objects are built only from {', '.join(sorted(allowed_packages()))}; "
            "add the package to RFT_ALLOWED_PACKAGES if you trust it"
        )
    return module, name


def imported(module: str) -> Any:
    """A module that a ``_target_`` names.

    Raises:
        UserError: if a plugin's module fails when it is imported; ours keep their traceback.
    """
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's module may do anything, sys.exit too
        if is_ours(module):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        raise UserError(
            f"{module}: cannot be imported: {one_line(error)} ({where}); install what it needs, or mend it"
        ) from error


def to_config(node: DictConfig | Mapping[str, Any]) -> Any:
    """The option's ``Config`` object, of the class in the option's (now imported) module."""
    values = OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    module, _ = split_target(str(values.pop("_target_")))
    declared = imported(module).Config
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(declared), values))


def target_class(node: DictConfig | Mapping[str, Any]) -> Any:
    """The class that ``_target_`` names.

    Raises:
        UserError: if it comes from elsewhere than allowed, or its module cannot be imported or has no such class.
    """
    module, name = split_target(str(node["_target_"]))
    found = getattr(imported(module), name, None)
    if found is None:
        raise UserError(f"_target_={module}.{name}: {module} has no {name}; correct the option's YAML or the module")
    return found


def build(node: DictConfig | Mapping[str, Any], **runtime: Any) -> Any:
    """``Class(config, **runtime)`` for the class that ``_target_`` names."""
    return target_class(node)(to_config(node), **runtime)
