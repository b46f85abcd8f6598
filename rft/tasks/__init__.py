"""Tasks: practice questions, demonstrations, and what counts as good."""
