"""Direct RL from AI feedback: the judge's score of a response is its reward, and PPO improves on it.

Source: Lee et al. 2023 (arXiv 2309.00267), "direct RLAIF". The optimiser is PPO, unchanged; what differs is the reward,
which `algorithm=rlaif_direct` sets to `judge`. Labels are made of the judge's verdicts too (`feedback=ai`), and measure
the reward; nothing learns from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.ppo import PPO
from rft.algorithms.ppo import Config as PPOConfig


@dataclass
class Config(PPOConfig):
    """Settings of PPO, on the judge's score."""

    requires_feedback: str | None = "ai"
    """The judge's, by which its score is measured."""
    requires_reward: str | None = "judge"
    """Without the judge's score it is PPO."""


class RLAIFDirect(PPO):
    """PPO on the score of a judge."""
