"""The base class of every algorithm."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rft.config.schemas import AlgorithmConfig
from rft.models.backbone import Backbone, Role
from rft.models.module import Module, require_finite
from rft.types import LossOutput, OnPolicyBatch, PreferenceBatch, Rollouts

Need = Literal["reference", "value", "reward"]


class Algorithm(Module):
    """An algorithm assigns credit (``prepare``) and defines a loss (``loss``); the rest is shared.

    Declare ``data_kind`` and ``needs``; the runner builds only those. On-policy algorithms implement ``prepare``,
    whose loss is a mean over counted tokens; preference algorithms get pairs, whose loss is a mean over pairs.
    No algorithm generates, tokenises, moves devices, tracks, reads files or steps an optimiser.
    """

    data_kind: ClassVar[Literal["none", "on_policy", "preference"]]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, config: AlgorithmConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.rollout_metrics: dict[str, float] = {}
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """Assign credit to the tokens of this rank's rollouts of one iteration; called once for each."""
        raise TypeError(f"{type(self).__name__} declares data_kind='on_policy' and must define prepare()")

    @abstractmethod
    def loss(self, batch: Any) -> LossOutput:
        """The loss on a microbatch, with gradient."""

    def training_step(self, batch: OnPolicyBatch | PreferenceBatch, batch_idx: int) -> Tensor:
        """The weighted loss of a microbatch.

        Raises:
            TrainingDiverged: if it is NaN or infinite.
        """
        out = self.loss(batch)
        require_finite(out.loss, self.config.name, self.global_step, "algorithm.lr")
        # Weighted like the loss, so that their means do not depend on microbatches and ranks either.
        metrics = {f"train/{name}": value.detach() * batch.weight for name, value in out.metrics.items()}
        metrics["train/loss"] = out.loss.detach() * batch.weight
        # The history hands them to the trackers, beside the rollouts' own; from here they would come a second time.
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True, logger=False)
        return out.loss * batch.weight

    @property
    def critic_lr(self) -> float:
        """Learning rate of the critic; an algorithm that has one of its own says so."""
        return self.config.lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One AdamW; the critic, if there is one, is a parameter group with its own learning rate."""
        groups: list[dict[str, Any]] = [{"params": self.backbone.parameters_of(Role.policy), "lr": self.config.lr}]
        if Role.critic in self.backbone.trained:
            groups.append({"params": self.backbone.parameters_of(Role.critic), "lr": self.critic_lr})
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, betas=(0.9, 0.95))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained and the algorithm's own buffers.

        Raises:
            TrainingDiverged: if a weight is not finite; the checkpoint before, which is good, then stays.
        """
        self.require_finite_weights()
        # With tied weights the state holds both names of one tensor.
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        base_buffers = {name for name, _ in self.named_buffers() if name.startswith("backbone.")}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in frozen | base_buffers}
