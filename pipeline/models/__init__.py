"""Models, their nets, their objective and their files of weights. May import data, storage and errors.

A new model, pair of nets or likelihood is one file (or function) here and one entry in a registry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from pipeline.data import Shape
from pipeline.errors import ParamsError
from pipeline.models.autoencoders import VAE, Autoencoder
from pipeline.models.base import LatentModel
from pipeline.models.conv import conv
from pipeline.models.likelihoods import LIKELIHOODS
from pipeline.models.mlp import mlp
from pipeline.storage import Size

__all__ = ["MODELS", "NETS", "VAE", "Autoencoder", "LatentModel", "ModelConfig"]

Net = Callable[[Shape, int, int, Sequence[int]], tuple[nn.Module, nn.Module]]
"""A function that returns an encoder and a decoder; see :func:`mlp` for its arguments."""
MODELS: dict[str, type[LatentModel]] = {"ae": Autoencoder, "vae": VAE}
NETS: dict[str, Net] = {"mlp": mlp, "conv": conv}


@dataclass(frozen=True)
class ModelConfig:
    """What a model is built from, as its file of weights keeps it: names in the registries, and sizes."""

    model: str
    net: str
    image_shape: tuple[Size, Size, Size]
    latent_dim: Size
    hidden_dims: Annotated[tuple[Size, ...], Field(max_length=16)]
    """Widths of the encoder's hidden layers, as the net interprets them; the decoder mirrors them."""
    likelihood: str = "bernoulli"

    def build(self) -> LatentModel:
        """Return the model with initial weights. Raises ParamsError for a name that is not registered.

        >>> import torch
        >>> model = ModelConfig("vae", "mlp", (1, 28, 28), latent_dim=2, hidden_dims=(512, 256)).build()
        >>> model.encode(torch.rand(5, 1, 28, 28)).mean.shape
        torch.Size([5, 2])
        """
        for key, registry in (("model", MODELS), ("net", NETS), ("likelihood", LIKELIHOODS)):
            if getattr(self, key) not in registry:
                section = "" if key == "likelihood" else f"{self.model}."
                raise ParamsError(f"{section}{key}: {getattr(self, key)!r} is not allowed; allowed is {', '.join(registry)}")
        kind = MODELS[self.model]
        outputs = kind.outputs_per_dim * self.latent_dim
        try:
            encoder, decoder = NETS[self.net](self.image_shape, outputs, self.latent_dim, self.hidden_dims)
        except ValueError as error:
            raise ParamsError(f"{self.model}.hidden_dims: not for the net {self.net!r} ({error})") from None
        return kind(encoder, decoder, self.latent_dim, LIKELIHOODS[self.likelihood]())
