"""Train, measure and picture latent spaces; DVC versions the results, MLflow shows them."""

import os

# OpenMP's threads spin while they wait for each other. Beside any other load (a second queue worker, a browser) that
# takes the very core they wait for: matrix products of two threads on two busy cores ran ten times slower. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
