"""Group relative policy optimisation, with Dr. GRPO and DAPO as settings.

Objective: max E[Σ_t min(ρ_t A, clip(ρ_t, 1−ε_low, 1+ε_high) A) − β k3_t], A = (r − mean of the group) / std of the
group, Shao et al. 2024 (arXiv 2402.03300, equation 3 and section 4.1.2): no critic, the other responses to a prompt
are the baseline. In the loss, k3 pulls by the gradient of KL(π_ref ‖ π) at each token, not of KL(π ‖ π_ref): see
``optimum``. Settings: the paper's normaliser is ``length_normaliser=sequence``; Dr. GRPO (Liu et al. 2025, arXiv
2503.20783) is ``length_normaliser=constant scale_by_std=false``; DAPO (Yu et al. 2025, arXiv 2503.14476) is
``clip_range_high=0.28 overlong=penalty kl_coef=0``, without its dynamic sampling.
Deviation: means are over tokens by default, as in DAPO; the paper's favour short right and long wrong answers.
Bias: a group's mean has the response itself in it, so rewards shrink by (k−1)/k against β, k the group's size; RLOO's
has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import GroupConfig, loguniform, number
from rft.models.backbone import Role
from rft.ops.advantages import group_relative, overlong_penalty
from rft.ops.enumerable import Enumerable, standardised, tokenwise_forward_kl
from rft.ops.kl import kl_k3
from rft.ops.losses import clipped_surrogate
from rft.ops.masked import fixed_mean, masked_mean, sequence_mean
from rft.types import LossOutput, OnPolicyBatch, Rollouts


class NormaliserEnum(str, Enum):
    """What a token's loss is divided by."""

    token = "token"  # all counted tokens
    sequence = "sequence"  # its response's tokens, then all responses
    constant = "constant"  # all responses × the longest that is allowed


class OverlongEnum(str, Enum):
    """What becomes of responses that reach the limit."""

    keep = "keep"  # nothing
    mask = "mask"  # they count nowhere
    penalty = "penalty"  # they lose up to one reward unit


@dataclass
class Config(GroupConfig):
    """Settings of GRPO."""

    kl_coef: float = number(0.04, at_least=0, search=loguniform(0.001, 0.1))
    """β of the k3 term (the paper's default), per nat and unit of advantage; searched from 0.001 (DeepSeek-R1)."""
    clip_range: float = number(0.2, above=0)
    """ε_low."""
    clip_range_high: float | None = number(None, above=0)
    """ε_high; none takes clip_range (DAPO: 0.28)."""
    length_normaliser: NormaliserEnum = NormaliserEnum.token
    """What a token's loss is divided by."""
    scale_by_std: bool = True
    """Divide by the standard deviation of the group (Dr. GRPO: no)."""
    overlong: OverlongEnum = OverlongEnum.keep
    """What becomes of responses that reach the limit (DAPO, section 3.4)."""
    overlong_buffer: int = number(8, at_least=1)
    """Tokens below the limit at which the penalty starts."""
    max_tokens: int = number(24, at_least=1)
    """The limit: the longest response that is allowed (`conf/algorithm/grpo.yaml` takes the task's)."""

    def conflict(self) -> str | None:
        """The penalty must start above the empty response."""
        if self.overlong is OverlongEnum.penalty and self.overlong_buffer > self.max_tokens:
            return f"overlong_buffer={self.overlong_buffer}: must be at most max_tokens ({self.max_tokens}); lower it"
        return None


class GRPO(Algorithm):
    """See the module's docstring."""

    data_kind = "on_policy"
    needs = frozenset({"reference", "reward"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"length_normaliser": "constant", "scale_by_std": False},
        {"length_normaliser": "sequence", "clip_range_high": 0.28, "overlong": "mask"},
        {"clip_range_high": 0.28, "overlong": "penalty", "overlong_buffer": 1, "max_tokens": 3, "kl_coef": 0.0},
    )
    config: Config

    def prepare(self, rollouts: Rollouts) -> OnPolicyBatch:
        """The group's advantage at every token."""
        config, seq = self.config, rollouts.sequences
        rewards_B = self._less_penalty(rollouts.rewards, seq.lengths)
        advantages_B = group_relative(rewards_B, rollouts.group, seq.lengths > 0, scale=config.scale_by_std)
        if config.overlong is OverlongEnum.mask:
            seq = replace(seq, response_mask=seq.response_mask & ~rollouts.truncated[:, None])
        mask, ref = seq.response_mask, rollouts.ref_logprobs
        ref = None if ref is None else ref * mask
        return OnPolicyBatch(seq, rollouts.logprobs * mask, advantages_B[:, None] * mask, ref_logprobs=ref)

    def _less_penalty(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        if self.config.overlong is not OverlongEnum.penalty:
            return rewards
        return rewards + overlong_penalty(lengths, self.config.max_tokens, self.config.overlong_buffer)

    def loss(self, batch: OnPolicyBatch) -> LossOutput:
        """Clipped surrogate plus β k3, reduced as ``length_normaliser`` says."""
        config, mask = self.config, batch.sequences.response_mask
        logprobs = self.backbone.logprobs(Role.policy, batch.sequences, config.temperature)
        low, high = config.clip_range, config.clip_range_high or config.clip_range
        mean = masked_mean if config.length_normaliser is NormaliserEnum.token else sequence_mean
        loss_BR, metrics = clipped_surrogate(
            logprobs, batch.logprobs, batch.advantages, mask, low, high, metric_mean=mean
        )
        if config.kl_coef and batch.ref_logprobs is not None:
            kl_BR = kl_k3(logprobs, batch.ref_logprobs)
            loss_BR = loss_BR + config.kl_coef * kl_BR
            metrics["kl"] = self._reduce(kl_BR.detach(), mask)
        return LossOutput(self._reduce(loss_BR, mask), metrics)

    def _reduce(self, x_BR: Tensor, mask_BR: Tensor) -> Tensor:
        """The mean that ``length_normaliser`` asks for. Shape []."""
        if self.config.length_normaliser is NormaliserEnum.sequence:
            return sequence_mean(x_BR, mask_BR)
        if self.config.length_normaliser is NormaliserEnum.constant:
            return fixed_mean(x_BR, mask_BR, self.config.max_tokens)
        return masked_mean(x_BR, mask_BR)

    def loss_count(self, batch: OnPolicyBatch) -> int:
        """Tokens or responses, as ``length_normaliser`` says."""
        return batch.count if self.config.length_normaliser is NormaliserEnum.token else len(batch)

    @property
    def optimum_samples(self) -> int:
        """Many, where the standard deviation of a few would have a part in it."""
        return 128 if self.config.scale_by_std else self.config.samples_per_prompt

    def optimum(self, problem: Enumerable) -> Tensor | None:
        """Token by token β π_ref / (β + V − Q); none is known for responses weighted by their length or left out."""
        config, k = self.config, self.optimum_samples
        if config.length_normaliser is NormaliserEnum.sequence or config.overlong is OverlongEnum.mask:
            return None
        rewards_XY = self._less_penalty(problem.rewards, problem.lengths)
        if config.kl_coef == 0:
            return problem.kl_regularised(0.0, rewards_XY)
        if not config.scale_by_std:
            return tokenwise_forward_kl(problem, rewards_XY * (k - 1) / k, config.kl_coef)
        return standardised(lambda r_XY: tokenwise_forward_kl(problem, r_XY, config.kl_coef), rewards_XY)
