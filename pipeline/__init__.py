"""Train, measure and draw latent spaces. DVC versions the results, MLflow shows them."""

__version__ = "0.3.0.dev0"
