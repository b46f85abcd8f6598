"""Direct preference optimisation.

Objective: min −E[log σ(β (log π/π_ref (chosen) − log π/π_ref (rejected)))], Rafailov et al. 2023 (arXiv 2305.18290,
equation 7): the closed-form optimum of reward less β·KL under Bradley–Terry preferences, without a reward model.
Pairs and labels are those from which the reward model of the other arms learns. No deviation; labels are taken as
hard (the better response of each pair), `label_smoothing` gives the conservative form.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.base import Algorithm
from rft.config import PreferenceConfig, number
from rft.models.backbone import Role
from rft.ops.preference import conservative_loss
from rft.types import LossOutput, PreferenceBatch


@dataclass
class Config(PreferenceConfig):
    """Settings of DPO."""

    lr: float = 5e-4
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-6 to 5e-7."""
    beta: float = number(0.1, above=0)
    """β above 0: the strength of the pull to the reference (the paper's default)."""
    label_smoothing: float = number(0.0, at_least=0, below=0.5)
    """Assumed share of flipped labels, in [0, 0.5)."""


class DPO(Algorithm):
    """See the module's docstring."""

    data_kind = "preference"
    needs = frozenset({"reference"})
    config: Config

    def loss(self, batch: PreferenceBatch) -> LossOutput:
        """The sigmoid loss over a microbatch of pairs."""
        if batch.ref_chosen_logprobs is None or batch.ref_rejected_logprobs is None:
            raise ValueError("DPO needs the reference's log-probs; build the pairs with its `needs`")
        config = self.config
        chosen = self.backbone.logprobs(Role.policy, batch.chosen).sum(-1) - batch.ref_chosen_logprobs
        rejected = self.backbone.logprobs(Role.policy, batch.rejected).sum(-1) - batch.ref_rejected_logprobs
        loss = conservative_loss(chosen, rejected, config.beta, config.label_smoothing).mean()
        chosen_reward, rejected_reward = config.beta * chosen.detach(), config.beta * rejected.detach()
        margin = chosen_reward - rejected_reward
        metrics = {
            "chosen_reward": chosen_reward.mean(),
            "rejected_reward": rejected_reward.mean(),
            "margin": margin.mean(),
            "accuracy": (margin > 0).float().mean(),
        }
        return LossOutput(loss, metrics)
