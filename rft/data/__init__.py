"""The two data modules: pairs that exist already, and rollouts of the current policy."""
