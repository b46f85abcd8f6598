"""Where the YAML of the configuration groups lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import rft


@cache
def conf_dir() -> Path:
    """The folder of the shipped configuration: `config.yaml` and one folder a group.

    In a wheel it is packed as `rft/conf`; in a checkout (editable install) it is `conf/` beside the package.

    Raises:
        FileNotFoundError: neither is there, so the installation is damaged.
    """
    package = Path(rft.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no configuration at {package / 'conf'} or beside it; install rft again")
