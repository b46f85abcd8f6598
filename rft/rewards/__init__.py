"""Reward sources: what scores a rollout."""
