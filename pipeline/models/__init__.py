"""The models by name; a new one is a file beside this one, a line here and a stage in dvc.yaml."""

from collections.abc import Sequence

import torch

from pipeline.models.autoencoder import Autoencoder
from pipeline.models.vae import VAE

Model = Autoencoder | VAE

MODELS: dict[str, type[Model]] = {"ae": Autoencoder, "vae": VAE}


def build(name: str, input_dim: int, latent_dim: int, hidden_dims: Sequence[int], seed: int = 0) -> Model:
    """Return an untrained model of a registered name, its weights drawn by ``seed``.

    Raises ValueError listing the names for one that is not registered.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; allowed are {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](input_dim, latent_dim, hidden_dims)
