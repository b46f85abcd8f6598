"""Generation of responses."""

from __future__ import annotations

from rft.ops.sampling import Truncation
from rft.rollout.engine import RolloutEngine, pad_prompts, uniforms

__all__ = ["RolloutEngine", "Truncation", "pad_prompts", "uniforms"]
