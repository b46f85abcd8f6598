"""Where trials run: processes here, tasks of a Ray cluster, jobs of SLURM. Each runs the same ``rft run``."""
