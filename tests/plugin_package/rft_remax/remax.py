"""ReMax: REINFORCE whose baseline is the reward of the greedy response to the same prompt.

Objective: max E[r(x, y)] − β KL(π ‖ π_ref), by the score-function gradient E[A ∇ log π(y|x)] with
A = r(x, y) − β log π(y|x)/π_ref(y|x) − r(x, ŷ), ŷ the greedy response, Li et al. 2023 (arXiv 2310.10505). A baseline
that depends on the prompt alone leaves the gradient's mean as it is; one response a prompt is enough, and no critic.
Deviation: the loss is a mean over counted tokens, not over sequences; the KL is in the reward of the whole response.
Dimensions: ``B`` sequences, ``R`` response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.base import Algorithm
from rft.config import OnPolicyConfig, loguniform, number
from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable
from rft.ops.kl import sequence_kl
from rft.ops.masked import masked_mean
from rft.types import LossOutput, OnPolicyBatch, Rollouts
from torch import Tensor


@dataclass
class Config(OnPolicyConfig):
    """Settings of Remax.

    They are read without importing this module: keep to builtins, enums and rft.config here.
    """

    lr: float = 1e-3
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-5 to 1e-6."""
    kl_coef: float = number(0.1, at_least=0, search=loguniform(0.01, 0.3))
    """β: reward units (standard deviations of the reward model) per nat; `search` is where tuning looks for it."""


class Remax(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reference", "reward", "greedy"})
    config: Config

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """Reward less KL, less the reward of the greedy response; the same at each token of a response."""
        mask_BR = rollouts.sequences.response_mask
        assert rollouts.ref_logprobs is not None and rollouts.greedy_rewards is not None  # in `needs`
        kl_B = sequence_kl(rollouts.logprobs, rollouts.ref_logprobs, mask_BR)
        advantages_B = rollouts.rewards - self.config.kl_coef * kl_B - rollouts.greedy_rewards
        return OnPolicyBatch(rollouts.sequences, rollouts.logprobs, advantages_B[:, None] * mask_BR)

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """−mean over counted tokens of advantage times log-probability."""
        logprobs_BR = self.backbone.logprobs(Role.policy, batch.sequences, self.config.temperature)
        loss = -masked_mean(batch.advantages * logprobs_BR, batch.sequences.response_mask)
        return LossOutput(loss)

    def optimum(self, problem: Enumerable) -> Tensor:
        """The policy that maximises the objective; what is learned is compared with it. Shape [X, Y]."""
        return problem.kl_regularised(self.config.kl_coef)
