"""Constitutional AI: critique, revision and fine-tuning by a constitution, then RL from its AI feedback.

1. ``start=revised`` (SL-CAI): a judge's model criticises and revises the SFT policy's own answers under drawn
   principles, and the SFT policy is fine-tuned on the revisions (`rft.study.revising`).
2. ``feedback=ai`` with a constitutional judge: the pairs are labelled under its principles; a reward model learns them.
3. PPO from the fine-tuned policy on that reward model, unchanged (RL-CAI).

Source: Bai et al. 2022 (arXiv 2212.08073). Deviations, besides those of the first step: the pairs are of the SFT
policy's answers, the same as every other arm's, and not of SL-CAI's; KL is measured and penalised from the SFT policy,
the reference of every other arm, so that training begins at a KL above 0. Any other algorithm has the same two steps
before it with ``start=revised feedback=ai judge=constitution``.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.ppo import PPO
from rft.algorithms.ppo import Config as PPOConfig


@dataclass
class Config(PPOConfig):
    """Settings of PPO, from a revised start and on AI labels."""

    requires_start: str | None = "revised"
    """Without the revisions it is `rlaif`."""
    requires_feedback: str | None = "ai"
    """Without AI labels there is no constitution in the reward."""


class Constitutional(PPO):
    """PPO from the revised start, on the reward model of a constitution's labels."""
