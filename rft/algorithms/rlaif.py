"""RL from AI feedback, distilled: a judge labels the pairs, a reward model learns its labels, PPO improves on it.

Source: Lee et al. 2023 (arXiv 2309.00267), "distilled RLAIF". The optimiser is PPO, unchanged; what differs is the
feedback, which `algorithm=rlaif` sets to `ai`, so that the report can tell the effect of the one from the other's.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.ppo import PPO
from rft.algorithms.ppo import Config as PPOConfig


@dataclass
class Config(PPOConfig):
    """Settings of PPO, on AI labels."""

    requires_feedback: str | None = "ai"
    """Without AI labels it is PPO."""


class RLAIF(PPO):
    """PPO on the reward model of AI labels."""
