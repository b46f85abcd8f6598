"""Stages, trials and studies."""
