"""Store entries as trackers are told of them: the same entry is the same artifact, whoever tells of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from rft.callbacks.trackers.base import Artifact
from rft.secrets import without_secrets
from rft.store import Entry
from rft.study.pipeline import STAGES

NAMES = {"questions": "prompts"}
"""What the artifacts of a stage are called, where it is not as the stage."""
KINDS = {"questions": "prompts", "sft": "model", "revisions": "model"}
"""What the entry of a stage is, where it is not what the stage is called."""
OWN = ("policy", "evaluation")
"""Stages that each trial has for itself; the others are shared."""
LEFT_OUT = {"policy": "policy-*.safetensors"}
"""Files that are not told of: a policy's snapshots, which are tested, and would make its artifact several times larger."""
LONGEST = 128
"""Characters of an artifact's name."""


def artifact_of(entry: Entry, arm: str = "", seed: int = 0) -> Artifact:
    """An entry as an artifact.

    Its name is that of the stage, in which equal keys are one version; that of what a trial has for itself has arm and
    seed too, as in ``policy-ppo-s0``.

    Args:
        entry: of the store.
        arm: of the trial, for the entries of `OWN`.
        seed: the same.
    """
    name, stage, files = NAMES.get(entry.stage, entry.stage), entry.stage, entry.manifest["files"]
    if stage in OWN:
        ending = f"-s{seed}"
        name = re.sub(r"[^\w.-]", "-", f"{name}-{arm}", flags=re.ASCII)[: LONGEST - len(ending)] + ending
    told = [file for file in files if not fnmatch(file, LEFT_OUT.get(stage, ""))]
    return Artifact(
        name=name,
        kind=KINDS.get(stage, stage),
        key=entry.key,
        files={file: entry.path / file for file in told},
        metadata=_metadata(entry, told),
    )


def _metadata(entry: Entry, told: list[str]) -> dict[str, Any]:
    manifest = entry.manifest
    found: dict[str, Any] = without_secrets(
        {
            "stage": entry.stage,
            "key": entry.key,
            "digest": entry.digest,
            "inputs": dict(manifest["inputs"]),
            "config": manifest["config"],
            "metrics": manifest["metrics"],
            "sha256": {name: manifest["files"][name]["sha256"] for name in told},
        }
    )
    return found | {"key": entry.key}  # which is no secret, for all its name


def used(inputs: Mapping[str, Entry]) -> list[Artifact]:
    """Those of a stage's inputs that a stage made, as artifacts; models, gold and packages come from elsewhere."""
    distinct = {entry.key: entry for entry in inputs.values() if entry.stage in STAGES and entry.stage not in OWN}
    return [artifact_of(entry) for entry in distinct.values()]
