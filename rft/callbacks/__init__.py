"""What watches a training run: progress, history, trackers."""
