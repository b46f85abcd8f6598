"""Supervised fine-tuning of the start policy on texts to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rft.config import SFTConfig
from rft.models.backbone import Backbone, Role
from rft.models.module import Module, linear_decay, require_finite
from rft.ops.masked import masked_mean
from rft.types import ExampleBatch, to_device


class SupervisedFineTuning(Module):
    """−E_t[log π(y_t | x, y_<t)] over the counted tokens of the examples (mean over tokens)."""

    def __init__(self, config: SFTConfig, backbone: Backbone, steps: int, key: str = "sft.lr") -> None:
        super().__init__()
        self.config, self.backbone, self.steps = config, backbone, steps
        self.lr_key = key
        """What to lower if the loss is not finite."""

    def training_step(self, batch: ExampleBatch, batch_idx: int) -> Tensor:
        """The negative log-likelihood of one batch."""
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences)
        loss = -masked_mean(logprobs, batch.sequences.response_mask)
        require_finite(loss, "start policy", self.global_step, self.lr_key)
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a linear decay to a tenth."""
        optimizer = torch.optim.AdamW(
            self.backbone.parameters_of(Role.policy), lr=self.config.lr, weight_decay=0.0, betas=(0.9, 0.95), fused=True
        )
        return linear_decay(optimizer, self.steps)


@torch.no_grad()
def mean_nll(batches: Sequence[ExampleBatch], backbone: Backbone) -> float:
    """Mean negative log-likelihood per counted token under the policy, nats."""
    total, tokens = 0.0, 0
    for batch in batches:
        seq = to_device(batch, backbone.device).sequences
        total -= float(backbone.logprobs(Role.policy, seq).double().sum())
        tokens += int(seq.response_mask.sum())
    return total / max(tokens, 1)
