"""Judges: language models that score responses."""
