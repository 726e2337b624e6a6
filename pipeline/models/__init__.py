"""The models by name; a new one is a file beside this one, a line here and a stage in dvc.yaml."""

from pipeline.models.autoencoder import Autoencoder
from pipeline.models.vae import VAE

Model = Autoencoder | VAE

MODELS: dict[str, type[Model]] = {"ae": Autoencoder, "vae": VAE}
