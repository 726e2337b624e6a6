"""Train, measure and picture latent spaces; DVC versions the results, MLflow shows them."""

import os

# How long an OpenMP thread spins for the next piece of work before it sleeps; read when torch loads. The default spins for
# milliseconds, and beside any other load (a second queue worker, a browser) takes the very core that the other thread waits
# for: two trainings at once ran ten times slower. Sleeping at once costs a wake-up for each of a step's fifty kernels.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
