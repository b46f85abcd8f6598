"""Feedback: what labels comparisons (simulated annotators, an AI judge), and the real human ratings."""
