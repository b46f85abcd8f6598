"""Distributions as pip leaves them in a folder: a package and the metadata that names its entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MODULE = '''
from dataclasses import dataclass
import torch  # never reached: options are read, not imported
from rft.config import OnPolicyConfig, number
@dataclass
class Config(OnPolicyConfig):
    """Settings."""
    kl_coef: float = number(0.1, at_least=0)
    """Pull to the reference."""
class Toy: ...
'''
OPTION = "defaults: [/schema/algorithm/toy@_here_, _self_]\n_target_: rft_toy.toy.Toy\nname: toy\n"
FILES = {
    "rft_toy/__init__.py": "",
    "rft_toy/toy.py": MODULE,
    "rft_toy/conf/__init__.py": "",
    "rft_toy/conf/algorithm/toy.yaml": OPTION,
}
ENTRIES = "[rft.plugins]\ntoy = rft_toy.toy\n[rft.conf]\ntoy = rft_toy.conf\n"


def install(
    site: Path,
    files: Mapping[str, str | None] | None = None,
    *,
    name: str = "rft-toy",
    entries: str = ENTRIES,
    version: str = "0.1.0",
) -> Path:
    """Lay a distribution down in a folder; `files` are laid over FILES, those that are None left out."""
    for place, text in (FILES | dict(files or {})).items():
        if text is not None:
            path = site / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    return site


def renamed(toy: str) -> dict[str, str | None]:
    """The files of a package of another name that defines the same option."""
    own = {place: text.replace("rft_toy", toy) for place, text in FILES.items()}
    return dict.fromkeys(FILES) | {k.replace("rft_toy", toy): text for k, text in own.items()}
