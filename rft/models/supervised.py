"""Supervised fine-tuning of the start policy on demonstrations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rft.config import SFTConfig
from rft.models.backbone import Backbone, Role
from rft.models.module import Module, linear_decay, require_finite
from rft.ops.masked import masked_mean
from rft.types import ExampleBatch


class SupervisedFineTuning(Module):
    """−E_t[log π(y_t | x, y_<t)] over the counted tokens of the demonstrations (mean over tokens)."""

    def __init__(self, config: SFTConfig, backbone: Backbone, steps: int) -> None:
        super().__init__()
        self.config, self.backbone, self.steps = config, backbone, steps

    def training_step(self, batch: ExampleBatch, batch_idx: int) -> Tensor:
        """The negative log-likelihood of one batch."""
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences)
        loss = -masked_mean(logprobs, batch.sequences.response_mask)
        require_finite(loss, "start policy", self.global_step, "sft.lr")
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a linear decay to a tenth."""
        optimizer = torch.optim.AdamW(
            self.backbone.parameters_of(Role.policy), lr=self.config.lr, weight_decay=0.0, betas=(0.9, 0.95)
        )
        return linear_decay(optimizer, self.steps)
