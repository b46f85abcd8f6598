"""What our tests and a script in TRL's environment hand each other: a folder of tensors, by case and by name.

Both sides import this module, so it knows neither `rft` nor TRL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

CASES, INPUTS, RESULTS = "cases.json", "inputs.safetensors", "results.safetensors"

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One comparison: `kind` names the function of the script that answers it."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict)


def _save(tensors: dict[str, Tensors], path: Path) -> None:
    flat = {f"{case}/{name}": x.detach().contiguous() for case, named in tensors.items() for name, x in named.items()}
    save_file(flat, path)


def _load(path: Path) -> dict[str, Tensors]:
    tensors: dict[str, Tensors] = {}
    for key, x in load_file(path).items():
        case, _, name = key.rpartition("/")
        tensors.setdefault(case, {})[name] = x
    return tensors


def write_cases(folder: Path, cases: dict[str, Case]) -> None:
    """The inputs, for the script to read."""
    about = {name: {"kind": case.kind, "settings": case.settings} for name, case in cases.items()}
    (folder / CASES).write_text(json.dumps(about), encoding="utf-8")
    _save({name: case.tensors for name, case in cases.items()}, folder / INPUTS)


def read_cases(folder: Path) -> dict[str, Case]:
    """The inputs, as `write_cases` left them."""
    about, tensors = json.loads((folder / CASES).read_text(encoding="utf-8")), _load(folder / INPUTS)
    return {name: Case(case["kind"], case["settings"], tensors.get(name, {})) for name, case in about.items()}


def write_results(folder: Path, results: dict[str, Tensors]) -> None:
    """TRL's answers, by case."""
    _save(results, folder / RESULTS)


def read_results(folder: Path) -> dict[str, Tensors]:
    """TRL's answers, by case."""
    return _load(folder / RESULTS)
