"""A scalar reward model learned from comparisons. Dimensions: ``B`` pairs or sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rft.models.backbone import Backbone, Role
from rft.models.module import Module, linear_decay, require_finite
from rft.ops.losses import bradley_terry_loss
from rft.types import PreferenceBatch, Sequences


@dataclass
class Config:
    """Settings of the reward model and its training."""

    lr: float = 5e-4
    """Learning rate (AdamW), linearly decayed to a tenth."""
    epochs: int = 1
    """Passes over the labels; more than one overfits (Ouyang et al. 2022)."""
    pairs_per_step: int = 16
    """Comparisons in a step."""
    seed: int = 0
    """Order of the comparisons and start of the adapter."""


class RewardModelTraining(Module):
    """Bradley–Terry on soft labels: P(first is better) = σ(s(first) − s(second)).

    Source: Christiano et al. 2017 (arXiv 1706.03741), equation 1; Stiennon et al. 2020 (arXiv 2009.01325).
    """

    def __init__(self, config: Config, backbone: Backbone, steps: int) -> None:
        super().__init__()
        self.config, self.backbone, self.steps = config, backbone, steps

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """The loss on one batch of pairs, chosen and rejected in one forward pass each."""
        chosen, rejected = self.backbone.scores(batch.chosen), self.backbone.scores(batch.rejected)
        loss = bradley_terry_loss(chosen, rejected, batch.preference)
        require_finite(loss, "reward model", self.global_step, "reward.lr")
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a linear decay to a tenth."""
        optimizer = torch.optim.AdamW(
            self.backbone.parameters_of(Role.reward), lr=self.config.lr, weight_decay=0.0, betas=(0.9, 0.95)
        )
        return linear_decay(optimizer, self.steps)


class LearnedReward:
    """The reward source of RL from a reward model: its score, standardised on the start policy's responses.

    Standardising keeps the KL coefficient's meaning across reward models (Huang et al. 2024, arXiv 2403.17031,
    detail 3: the reward of the start policy has mean 0).
    """

    def __init__(self, config: Config, backbone: Backbone, mean: float, std: float) -> None:
        self.config, self.backbone, self.mean, self.std = config, backbone, mean, std

    @torch.no_grad()
    def score(self, sequences: Sequences) -> Tensor:
        """Standard scores. Shape [B]."""
        return (self.backbone.scores(sequences) - self.mean) / self.std
