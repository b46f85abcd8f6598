"""DPO from AI feedback: a judge labels the pairs, and the policy learns from the labels without a reward model.

Source: the labels of Lee et al. 2023 (arXiv 2309.00267), the optimiser of Rafailov et al. 2023 (arXiv 2305.18290). It
is DPO, unchanged; what differs is the feedback, which `algorithm=rlaif_dpo` sets to `ai`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.algorithms.dpo import DPO
from rft.algorithms.dpo import Config as DPOConfig


@dataclass
class Config(DPOConfig):
    """Settings of DPO, on AI labels."""

    requires_feedback: str | None = "ai"
    """Without AI labels it is DPO."""


class RLAIFDPO(DPO):
    """DPO on a judge's labels."""
