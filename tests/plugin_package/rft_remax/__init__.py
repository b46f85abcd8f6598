"""The algorithm remax, for rft."""
