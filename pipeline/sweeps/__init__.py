"""Many trainings and evaluations at once: a pool of processes, and grids of beta and seed.
May import training and evaluation (in those processes only), params, storage, runtime, startup and errors."""
