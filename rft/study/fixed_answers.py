"""What is the same of the fixed answers for all algorithms, seeds, epochs and roles: computed once and kept.

What the lowest layers, which no adapter touches, give at the candidates lies with them: their decoding gave it. The
log-probabilities under the reference are a stage beside the six steps, made when the first that learns from the fixed
answers needs them.
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

REFERENCE = "reference"
"""The stage, and the input of a policy: of the candidates."""
MISMATCHED = "reference_mismatched"
"""The same, of each prompt with an answer to another prompt (``rft.data.offline.mismatched``)."""
KEPT_BYTES = 4 << 30
"""A larger trunk is computed by each reader: reading it would be no faster, and it would fill the disk."""
_TENSOR, _FILE = "logprobs", "reference.safetensors"
_TRUNK, _TRUNK_FILE, _DEPTH = "trunk", "trunk.safetensors", "depth"


def reference_stages(pipeline: Pipeline) -> dict[str, Entry]:
    """What the policy of a pipeline takes from here, by name; nothing if it learns from its own fresh responses."""
    algorithm = pipeline.algorithm_class
    if algorithm.data_kind not in ("preference", "unpaired"):
        return {}
    names = (REFERENCE, MISMATCHED) if algorithm.data_kind == "unpaired" else (REFERENCE,)
    asked = names if "reference" in algorithm.needs else ()
    return {name: _stage(pipeline, name) for name in asked}


def _stage(pipeline: Pipeline, name: str) -> Entry:
    inputs = {"sft": pipeline.sft, "candidates": pipeline.candidates}

    def make(out: Path) -> Mapping[str, Any]:
        return _make(inputs, pipeline.strategy, pipeline.lora, out, mismatches=name == MISMATCHED)

    return pipeline.stage(name, {"strategy": pipeline.strategy.identity(distributed=False)}, inputs, make)


def write_trunk(states: Tensor, depth: int, folder: Path) -> None:
    """Keep what `with_kept_trunk` reads.

    Args:
        states: of all counted tokens of some texts in their order, [tokens, H].
        depth: of how many of the lowest layers they are the output.
        folder: of a store entry.
    """
    from safetensors.torch import save_file

    save_file({_TRUNK: states.cpu().contiguous()}, folder / _TRUNK_FILE, {_DEPTH: str(depth)})


def keep_trunk(answers: Sequences, backbone: Backbone, folder: Path) -> None:
    """Pass texts through the lowest layers and keep what they give, unless there are none or it would be too large."""
    size = int(answers.counted.sum()) * backbone.flops.hidden * next(backbone.base.parameters()).itemsize
    if backbone.trunk.depth and size <= KEPT_BYTES:
        made = backbone.with_trunk(answers)
        assert made.trunk is not None
        write_trunk(made.trunk[answers.counted], backbone.trunk.depth, folder)


def with_kept_trunk(answers: Sequences, folder: Path, depth: int) -> Sequences:
    """Texts with the trunk that is kept in a folder; as they are if none is, or one of other layers.

    Args:
        answers: the texts that it was kept of, in their order; it is the same wherever their prompts end.
        folder: of a store entry.
        depth: of how many layers it is wanted.
    """
    from safetensors import safe_open

    if not (file := folder / _TRUNK_FILE).exists():
        return answers
    with safe_open(file, "pt") as found:
        if found.metadata().get(_DEPTH) != str(depth):
            return answers
        kept, counted = found.get_tensor(_TRUNK), answers.counted
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
    if mismatches:
        answers = mismatched(answers, samples_per_prompt(candidates))
    else:
        answers = with_kept_trunk(answers, candidates, backbone.trunk.depth)
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
