"""Trackers: where a trial's metrics go besides the store. One module each; nothing else knows any of them."""
