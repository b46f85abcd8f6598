"""All that knows Hydra: schemas, composition, refusal of bad input, building objects from config.

Nothing here imports torch: a config is refused before anything heavy is loaded.
"""

from __future__ import annotations

from rft.config.build import build, to_config
from rft.config.compose import compose, expand_sweep, register
from rft.config.overrides import quoted
from rft.config.ranges import number
from rft.config.schemas import (
    SPLITS,
    AuditConfig,
    CandidatesConfig,
    EvaluationConfig,
    GroupConfig,
    OnPolicyConfig,
    PreferenceConfig,
    RunConfig,
    SFTConfig,
    TrackerConfig,
)
from rft.config.search import choice, integers, loguniform, searched, uniform

__all__ = [
    "SPLITS",
    "AuditConfig",
    "CandidatesConfig",
    "EvaluationConfig",
    "GroupConfig",
    "OnPolicyConfig",
    "PreferenceConfig",
    "RunConfig",
    "SFTConfig",
    "TrackerConfig",
    "build",
    "choice",
    "compose",
    "expand_sweep",
    "integers",
    "loguniform",
    "number",
    "quoted",
    "register",
    "searched",
    "to_config",
    "uniform",
]
