"""What is the same of the fixed answers for all algorithms, seeds, epochs and roles: computed once and kept.

Stages beside the six steps, made when the first that reads the fixed answers needs them: what the lowest layers give,
which no adapter touches, and the log-probabilities under the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.budget import USAGE

if TYPE_CHECKING:
    from torch import Tensor

    from rft.models.backbone import Backbone
    from rft.models.pretrained import LoraConfig
    from rft.store import Entry
    from rft.strategy import Strategy
    from rft.study.pipeline import Pipeline
    from rft.types import Sequences

TRUNK = "trunk"
"""The stage, and the input of whatever reads the candidates: what the lowest layers give at their counted tokens."""
REFERENCE = "reference"
"""The stage, and the input of a policy: of the candidates."""
MISMATCHED = "reference_mismatched"
"""The same, of each prompt with an answer to another prompt (``rft.data.offline.mismatched``)."""
KEPT_BYTES = 4 << 30
"""A larger trunk is computed by each reader: reading it would be no faster, and it would fill the disk."""
_TENSOR, _FILE, _TRUNK_FILE = "logprobs", "reference.safetensors", "trunk.safetensors"


def trunk_stage(pipeline: Pipeline) -> dict[str, Entry]:
    """The trunk of the candidates, by name; nothing if there are no layers that adapters leave alone."""
    lora: LoraConfig = pipeline.lora
    if not (lora.enabled and lora.top_layers):
        return {}

    def make(out: Path) -> Mapping[str, Any]:
        return _make_trunk(pipeline.sft, pipeline.candidates, pipeline.strategy, lora, out)

    return {
        TRUNK: pipeline.stage(
            TRUNK, trunk_address(pipeline), {"sft": pipeline.sft, "candidates": pipeline.candidates}, make
        )
    }


def trunk_address(pipeline: Pipeline) -> dict[str, Any]:
    """What decides a trunk but for the start policy and the texts."""
    return {"top_layers": pipeline.lora.top_layers, "strategy": pipeline.strategy.identity(distributed=False)}


def reference_stages(pipeline: Pipeline) -> dict[str, Entry]:
    """What the policy of a pipeline takes from here, by name; nothing if it learns from its own fresh responses."""
    algorithm = pipeline.algorithm_class
    if algorithm.data_kind not in ("preference", "unpaired"):
        return {}
    names = (REFERENCE, MISMATCHED) if algorithm.data_kind == "unpaired" else (REFERENCE,)
    asked = names if "reference" in algorithm.needs else ()
    return pipeline.trunk | {name: _stage(pipeline, name) for name in asked}


def _stage(pipeline: Pipeline, name: str) -> Entry:
    inputs = {"sft": pipeline.sft, "candidates": pipeline.candidates} | pipeline.trunk

    def make(out: Path) -> Mapping[str, Any]:
        return _make(inputs, pipeline.strategy, pipeline.lora, out, mismatches=name == MISMATCHED)

    return pipeline.stage(name, {"strategy": pipeline.strategy.identity(distributed=False)}, inputs, make)


def _make_trunk(sft: Entry, candidates: Entry, strategy: Strategy, lora: LoraConfig, out: Path) -> Mapping[str, Any]:
    from rft.data.offline import load_answers
    from rft.study.training import make_backbone

    backbone, _ = make_backbone(sft.path, strategy, lora, roles=())
    answers = load_answers(candidates.path, backbone.pad_id)
    keep_trunk(answers, backbone, out)
    return {"answers": len(answers), "layers": backbone.trunk.depth, USAGE: backbone.usage.counted()}


def keep_trunk(answers: Sequences, backbone: Backbone, folder: Path) -> None:
    """Keep what `with_kept_trunk` reads, unless there is none or it would be too large."""
    from safetensors.torch import save_file

    size = int(answers.counted.sum()) * backbone.flops.hidden * next(backbone.base.parameters()).itemsize
    if backbone.trunk.depth and size <= KEPT_BYTES:
        made = backbone.with_trunk(answers)
        assert made.trunk is not None
        save_file({TRUNK: made.trunk[answers.counted]}, folder / _TRUNK_FILE)


def with_kept_trunk(answers: Sequences, inputs: Mapping[str, Entry], name: str = TRUNK) -> Sequences:
    """Texts with the trunk that is among some inputs; as they are if none is.

    Args:
        answers: the texts that it was kept of, in their order; it is the same wherever their prompts end.
        inputs: of a stage, by name.
        name: of the input.
    """
    from safetensors.torch import load_file

    if name not in inputs or not (file := inputs[name].path / _TRUNK_FILE).exists():
        return answers
    kept, counted = load_file(file)[TRUNK], answers.counted
    trunk = kept.new_zeros(*counted.shape, kept.shape[-1])
    trunk[counted] = kept
    return replace(answers, trunk=trunk)


def _make(
    inputs: Mapping[str, Entry], strategy: Strategy, lora: LoraConfig, out: Path, *, mismatches: bool
) -> Mapping[str, Any]:
    from rft.data.offline import load_answers, mismatched, reference_logprobs, samples_per_prompt
    from rft.study.training import make_backbone

    backbone, _ = make_backbone(inputs["sft"].path, strategy, lora, roles=())
    candidates = inputs["candidates"].path
    answers = load_answers(candidates, backbone.pad_id)
    answers = mismatched(answers, samples_per_prompt(candidates)) if mismatches else with_kept_trunk(answers, inputs)
    logprobs = reference_logprobs(answers, backbone)
    write_reference(logprobs, out)
    return {"answers": len(answers), "mean_logprob": float(logprobs.mean()), USAGE: backbone.usage.counted()}


def write_reference(logprobs: Tensor, folder: Path) -> None:
    """Keep what `read_reference` reads."""
    from safetensors.torch import save_file

    save_file({_TENSOR: logprobs}, folder / _FILE)


def read_reference(inputs: Mapping[str, Entry], name: str = REFERENCE) -> Tensor | None:
    """Summed log-probability of each answer under the reference, [answers]; None if the policy has no such input."""
    from safetensors.torch import load_file

    return load_file(inputs[name].path / _FILE)[_TENSOR] if name in inputs else None
