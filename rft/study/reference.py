"""Log-probabilities of the fixed answers under the reference: the same for all algorithms, seeds and epochs.

Stages beside the six steps, made when the first arm that learns from fixed answers needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.budget import USAGE

if TYPE_CHECKING:
    from torch import Tensor

    from rft.store import Entry
    from rft.strategy import Strategy
    from rft.study.pipeline import Pipeline

REFERENCE = "reference"
"""The stage, and the input of a policy: of the candidates."""
MISMATCHED = "reference_mismatched"
"""The same, of each prompt with an answer to another prompt (``rft.data.offline.mismatched``)."""
_TENSOR, _FILE = "logprobs", "reference.safetensors"


def reference_stages(pipeline: Pipeline) -> dict[str, Entry]:
    """What the policy of a pipeline takes from here, by name; nothing if it learns from its own fresh responses."""
    algorithm = pipeline.algorithm_class
    if "reference" not in algorithm.needs or algorithm.data_kind not in ("preference", "unpaired"):
        return {}
    names = (REFERENCE, MISMATCHED) if algorithm.data_kind == "unpaired" else (REFERENCE,)
    return {name: _stage(pipeline, name) for name in names}


def _stage(pipeline: Pipeline, name: str) -> Entry:
    def make(out: Path) -> Mapping[str, Any]:
        return _make(pipeline.sft, pipeline.candidates, pipeline.strategy, out, mismatches=name == MISMATCHED)

    address = {"strategy": pipeline.strategy.identity(distributed=False)}
    return pipeline.stage(name, address, {"sft": pipeline.sft, "candidates": pipeline.candidates}, make)


def _make(sft: Entry, candidates: Entry, strategy: Strategy, out: Path, *, mismatches: bool) -> Mapping[str, Any]:
    from rft.data.offline import load_answers, mismatched, reference_logprobs, samples_per_prompt
    from rft.models.pretrained import LoraConfig
    from rft.study.training import make_backbone

    backbone, _ = make_backbone(sft.path, strategy, LoraConfig(enabled=False), roles=())
    answers = load_answers(candidates.path, backbone.pad_id)
    if mismatches:
        answers = mismatched(answers, samples_per_prompt(candidates.path))
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
