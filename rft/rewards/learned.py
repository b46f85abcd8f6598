"""A scalar reward model learned from comparisons. Dimensions: ``B`` pairs or sequences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rft.config.ranges import number
from rft.models.backbone import Backbone, PoolingEnum, Role
from rft.models.module import StepOfEachBatch
from rft.ops.losses import bradley_terry_loss
from rft.rewards.base import Fitting, Reward
from rft.types import ComparisonBatch, Sequences

FILE = "reward.safetensors"


@dataclass
class Config:
    """Settings of the reward model and its training."""

    lr: float = number(1e-3, above=0)
    """Learning rate (AdamW), linearly decayed to a tenth."""
    epochs: int = number(2, at_least=1)
    """Passes over the labels. Ouyang et al. 2022 warn of more than one; that was with 33,000 prompts."""
    prompts_per_step: int = number(8, at_least=1)
    """Prompts in a step, with all their answers and comparisons."""
    pooling: PoolingEnum = PoolingEnum.mean
    """Where the score is read: the mean over all counted tokens, or the last one, which asks the adapted layers to
    gather the whole text there (experiments/default/results/search.md)."""
    seed: int = number(0, at_least=0)
    """Order of the comparisons and start of the adapter."""


class RewardModelTraining(StepOfEachBatch):
    """Bradley–Terry on soft labels: P(first is better) = σ(s(first) − s(second)).

    Source: Christiano et al. 2017 (arXiv 1706.03741), equation 1; Stiennon et al. 2020 (arXiv 2009.01325).
    """

    def __init__(self, config: Config, backbone: Backbone, steps: int) -> None:
        super().__init__(backbone, Role.reward, config.lr, steps, "reward model", "reward.lr")
        self.config = config

    def loss(self, batch: ComparisonBatch) -> Tensor:
        """The loss on one batch of comparisons; each answer is scored once."""
        scores = self.backbone.scores(batch.answers, self.config.pooling)
        return bradley_terry_loss(scores[batch.chosen], scores[batch.rejected], batch.preference)


class LearnedReward(Reward):
    """The reward source of RL from a reward model: its score, which is trained in the stage ``reward_model``."""

    needs = frozenset({"labels", "role"})
    reads_reference = False
    config: Config

    @torch.no_grad()
    def score(self, sequences: Sequences) -> Tensor:
        """The reward model's scores. Shape [B], float32."""
        return self.backbone.scores(sequences, self.config.pooling)

    def fit(self, fitting: Fitting) -> None:
        """Train on the comparisons."""
        batches = fitting.comparisons(self.config.prompts_per_step, self.config.epochs, self.config.seed)
        fitting.train(RewardModelTraining(self.config, self.backbone, len(batches)), batches)

    def save(self, folder: Path) -> None:
        """``reward.safetensors``: adapter (or weights) and head."""
        save_file(self.backbone.role_state(Role.reward), folder / FILE)

    def load(self, folder: Path) -> None:
        """See the base class."""
        self.backbone.load_role(Role.reward, load_file(folder / FILE))

    def start_critic(self, mean: float, std: float) -> None:
        """Start the critic as the reward model, in the units of the standardised score; a head alone starts at zero."""
        if self.backbone.critic_on_policy:
            super().start_critic(mean, std)
            return
        self.backbone.load_role(Role.critic, self.backbone.role_state(Role.reward))
        head = self.backbone.heads[Role.critic.value]
        with torch.no_grad():
            head.weight.div_(std)  # type: ignore[operator]
            head.bias.sub_(mean).div_(std)  # type: ignore[operator]
