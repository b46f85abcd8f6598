"""Store entries as trackers are told of them: the same entry is the same artifact, whoever tells of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.callbacks.trackers.base import Artifact, Tracker
from rft.evaluation.samples import tables
from rft.secrets import without_secrets
from rft.store import Entry
from rft.store.names import HISTORY_FILE, ROWS_FILE, SAMPLES_FILE
from rft.study.pipeline import STAGES

if TYPE_CHECKING:
    from rft.study.pipeline import Pipeline

NAMES = {"questions": "prompts"}
"""What the artifacts of a stage are called, where it is not as the stage."""
KINDS = {"questions": "prompts", "sft": "model", "revisions": "model"}
"""What the entry of a stage is, where it is not what the stage is called."""
OWN = ("policy", "evaluation")
"""Stages that each trial has for itself; the others are shared."""
LEFT_OUT = {"policy": "policy-*.safetensors"}
"""Files that are not told of: a policy's snapshots, which are tested, and would be most of its artifact."""
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


def tell_results(tracker: Tracker, pipeline: Pipeline, evaluation: Entry | None) -> None:
    """Tell a tracker of a trial's policy and its final test, and show samples of the answers.

    Args:
        tracker: of the trial.
        pipeline: of the trial, whose policy is there.
        evaluation: its final test; None if it ends before that.
    """
    arm, seed = str(pipeline.cfg.arm), int(pipeline.cfg.seed)
    policy = pipeline.policy
    assert policy is not None
    tracker.makes(artifact_of(policy, arm, seed))
    if evaluation is not None:
        _show(tracker, pipeline.folder, policy, evaluation)
        tracker.makes(artifact_of(evaluation, arm, seed))


def _show(tracker: Tracker, folder: Path, policy: Entry, evaluation: Entry) -> None:
    from rft.data.offline import read_table

    rows = json.loads((policy.path / HISTORY_FILE).read_text(encoding="utf-8"))
    step = int(rows[-1]["step"]) if rows else 0  # a tracker takes no row of a step that is behind
    if prompts := tracker.kept.samples:
        stored = read_table(evaluation.path / ROWS_FILE)
        for name, columns, cells in tables(folder / SAMPLES_FILE, stored, prompts):
            tracker.table(name, columns, cells, step)


def used(inputs: Mapping[str, Entry]) -> list[Artifact]:
    """Those of a stage's inputs that a stage made, as artifacts; models, gold and packages come from elsewhere."""
    distinct = {entry.key: entry for entry in inputs.values() if entry.stage in STAGES and entry.stage not in OWN}
    return [artifact_of(entry) for entry in distinct.values()]
