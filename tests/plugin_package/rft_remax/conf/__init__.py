"""YAML that rft puts on Hydra's search path: one folder a group, one file an option."""
