"""Train, measure and picture latent spaces; DVC versions the results, MLflow shows them."""
