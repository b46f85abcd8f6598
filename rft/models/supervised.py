"""Supervised fine-tuning of the start policy on texts to imitate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rft.config import SFTConfig
from rft.models.backbone import Backbone, Role
from rft.models.module import StepOfEachBatch
from rft.ops.masked import masked_mean
from rft.types import ExampleBatch, to_device


class SupervisedFineTuning(StepOfEachBatch):
    """−E_t[log π(y_t | x, y_<t)] over the counted tokens of the examples (mean over tokens)."""

    def __init__(self, config: SFTConfig, backbone: Backbone, steps: int, key: str = "sft.lr") -> None:
        super().__init__(backbone, Role.policy, config.lr, steps, "start policy", key)

    def loss(self, batch: ExampleBatch) -> Tensor:
        """The negative log-likelihood of one batch."""
        return -masked_mean(self.backbone.logprobs(Role.policy, batch.sequences), batch.sequences.response_mask)


def with_trunks(batches: Iterable[ExampleBatch], backbone: Backbone) -> list[ExampleBatch]:
    """Batches that are passed more than once, with what no step changes of it."""
    return [replace(batch, sequences=backbone.with_trunk(batch.sequences)) for batch in batches]


@torch.no_grad()
def mean_nll(batches: Sequence[ExampleBatch], backbone: Backbone) -> float:
    """Mean negative log-likelihood per counted token under the policy, nats."""
    total, tokens = 0.0, 0
    for batch in batches:
        seq = to_device(batch, backbone.device).sequences
        total -= float(backbone.logprobs(Role.policy, seq).double().sum())
        tokens += int(seq.response_mask.sum())
    return total / max(tokens, 1)
