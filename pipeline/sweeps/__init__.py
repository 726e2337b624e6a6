"""Many trainings and evaluations at once: a pool of processes, and grids of params on it, on Ray or on SLURM.
May import training and evaluation (in those processes only), params, stats, storage, tracking, runtime, startup and errors."""
