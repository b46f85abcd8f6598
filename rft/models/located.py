"""Where a model that exists already lies; nothing heavy is imported to tell."""

from __future__ import annotations

from pathlib import Path

from rft.errors import UserError


def local_folder(path: str, key: str) -> Path | None:
    """The folder of a model; None if the path is a hub id.

    Args:
        path: as it was given.
        key: what the settings of the model stand under, for what is said when they are wrong.

    Raises:
        UserError: if there is no folder, or no model in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if folder.exists() or path.startswith((".", "/", "~")):
            raise UserError(f"{key}.path={path}: no such folder; give a model folder or a hub id")
        return None
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{key}.path={path}: no model there (config.json and *.safetensors); save one with save_pretrained"
        )
    return folder
