"""Generation of responses."""

from __future__ import annotations

from rft.ops.sampling import Truncation
from rft.rollout.engine import RolloutEngine, pad_prompts, rows_at_once, uniforms

__all__ = ["RolloutEngine", "Truncation", "pad_prompts", "rows_at_once", "uniforms"]
