"""Train, measure and picture latent spaces; DVC versions the results, MLflow shows them."""

import os

# How often an OpenMP thread looks for the next piece of work before it sleeps; read when torch loads. By default it looks for
# milliseconds, and beside any other load takes the very core that the other thread waits for. Sleeping at once costs one
# training a wake-up for each of a step's fifty kernels, half of its speed, and is best for two at once: whoever runs them sets
# OMP_WAIT_POLICY=PASSIVE. benchmarks/README.md has the figures.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
