"""Online RL from AI feedback: a judge labels fresh pairs of the policy in every iteration, DPO's loss learns from them.

Source: Guo et al. 2024 (arXiv 2402.04792), "online AI feedback". The algorithm is `online_feedback`, unchanged; what
makes it RLAIF is the feedback, which `algorithm=rlaif_online` sets to `ai`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.online_feedback import Config as OnlineFeedbackConfig
from rft.algorithms.online_feedback import OnlineFeedback


@dataclass
class Config(OnlineFeedbackConfig):
    """Settings of online DPO, on AI labels of fresh pairs."""

    requires_feedback: str | None = "ai"
    """Without AI labels it is `online_feedback`."""


class RLAIFOnline(OnlineFeedback):
    """Online DPO on a judge's labels."""
