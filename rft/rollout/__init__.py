"""Generation of responses."""

from __future__ import annotations

from rft.rollout.engine import RolloutEngine, pad_prompts, uniforms

__all__ = ["RolloutEngine", "pad_prompts", "uniforms"]
