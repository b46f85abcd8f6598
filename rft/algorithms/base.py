"""The base class of every algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rft.algorithms.checked import place
from rft.algorithms.contract import check_batch, check_labelled, check_rollouts, check_rows
from rft.algorithms.contract_of_steps import check_count, check_loss, check_step
from rft.config.schemas import AlgorithmConfig, OnPolicyConfig
from rft.models.backbone import Backbone, Role
from rft.models.module import Module, require_finite
from rft.ops.enumerable import Enumerable
from rft.types import LossOutput, OnPolicyBatch, PreferenceBatch, Rollouts, UnpairedBatch

DataKind = Literal["none", "on_policy", "preference", "unpaired"]
Need = Literal["reference", "value", "reward", "greedy", "feedback"]


class Algorithm(Module):
    """An algorithm assigns credit (``prepare``) and defines a loss (``loss``); the rest is shared.

    Declare ``data_kind`` and ``needs``; the runner builds only those. On-policy algorithms implement ``prepare``, which
    makes a batch of rollouts; preference algorithms get labelled pairs, unpaired ones single labelled responses.
    No algorithm generates, tokenises, moves devices, tracks, reads files or steps an optimiser.
    ``rft check-algorithm NAME`` checks all that this docstring and the methods' promise.
    """

    data_kind: ClassVar[DataKind]
    needs: ClassVar[frozenset[Need]] = frozenset()
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Settings, besides the defaults, under which the conformance suite checks the algorithm."""

    def __init__(self, config: AlgorithmConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.rollout_metrics: dict[str, float] = {}
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch | PreferenceBatch:
        """Assign credit to this rank's rollouts of one iteration; called once for each, without gradient.

        Rows of the result are learned from in minibatches; a `Config` whose `batch_rows` differs from the number of
        rollouts says how many come out.
        """
        raise TypeError(f"{type(self).__name__} declares data_kind='on_policy' and must define prepare()")

    def prepare_step(self, batch: Any) -> Any:
        """What the loss must know of all rows of an optimiser step at once; offline data only, without gradient.

        Args:
            batch: this rank's rows of the step; the same rows must come back.
        """
        return batch

    def loss(self, batch: Any) -> LossOutput:
        """The loss on a microbatch, with gradient: a mean over what ``loss_count`` counts."""
        raise TypeError(f"{type(self).__name__} must define loss(batch)")

    def loss_count(self, batch: Any) -> int:
        """How many things the loss is a mean over: counted tokens of rollouts, decided pairs, single responses.

        Microbatches, accumulation steps and ranks are weighted by it, so that none of them changes the gradient.
        """
        count: int = batch.count
        return count

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """The policy that the objective is maximised by when every response can be listed. Shape [X, Y], or None if
        these settings have none that is known.

        For reward less β·KL that is ``problem.kl_regularised(β)``. The conformance suite trains the algorithm there,
        with ``optimum_samples`` responses a prompt, and compares.
        """
        raise TypeError(
            f"{type(self).__name__} does not say what it converges to; define optimum(problem), for reward less β·KL "
            "as `return problem.kl_regularised(self.config.kl_coef)`"
        )

    @property
    def optimum_samples(self) -> int:
        """Responses to a prompt with which ``optimum`` is reached: as configured, unless it holds for many alone."""
        samples: int = getattr(self.config, "samples_per_prompt", 1)
        return samples

    @classmethod
    def best_of(cls, config: Any) -> int:  # noqa: ARG003 - a subclass reads it there
        """Responses sampled for each answer given in the final test, of which the reward source picks the best."""
        return 1

    @classmethod
    def critic_on_policy(cls, config: Any) -> bool:  # noqa: ARG003 - a subclass reads it there
        """Whether the critic is a head on the policy's hidden states, and no adapter or copy of its own."""
        return False

    @torch.no_grad()
    def assign_credit(self, rollouts: Rollouts) -> OnPolicyBatch | PreferenceBatch:
        """``prepare``, its result checked.

        Raises:
            ContractError: if it has wrong shapes, types or numbers, or another number of rows than ``batch_rows`` says.
            TrainingDiverged: if the rollouts hold numbers that are not finite.
        """
        where = place(self.prepare)
        require_finite(rollouts.logprobs.sum() + rollouts.rewards.sum(), "rollouts", self.global_step, "algorithm.lr")
        check_rollouts(rollouts, self.needs, where)
        batch = self.prepare(rollouts)
        check_batch(batch, self.backbone.eos_id, where)
        if isinstance(self.config, OnPolicyConfig):
            check_rows(len(batch), len(rollouts), self.config, where)
        return batch

    @torch.no_grad()
    def see_step(self, batch: Any) -> Any:
        """``prepare_step``, its result checked.

        Raises:
            ContractError: if other rows come back, or rows with wrong shapes, types or numbers.
        """
        seen, where = self.prepare_step(batch), place(self.prepare_step)
        check_step(batch, seen, where)
        if seen is not batch:
            check_labelled(seen, self.backbone.eos_id, where)
        return seen

    def checked_count(self, batch: Any) -> int:
        """``loss_count``, its result checked.

        Raises:
            ContractError: if it is no whole number, or below 0.
        """
        return check_count(self.loss_count(batch), place(self.loss_count))

    def checked_loss(self, batch: Any) -> LossOutput:
        """``loss``, its result checked.

        Raises:
            ContractError: if it is no scalar with a gradient.
        """
        return check_loss(self.loss(batch), place(self.loss))

    def training_step(self, batch: OnPolicyBatch | PreferenceBatch | UnpairedBatch, batch_idx: int) -> Tensor:
        """The weighted loss of a microbatch.

        Raises:
            TrainingDiverged: if it is NaN or infinite.
        """
        out = self.checked_loss(batch)
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
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, betas=(0.9, 0.95), fused=True)

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
