"""Many trainings and evaluations at once: a pool of processes, and grids and searches of params on it, on Ray or on SLURM.
May import training and evaluation (in those processes only), figures (for the report of a search), options, params, stats,
storage, tracking, runtime, startup and errors."""
