"""The deterministic autoencoder."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.models.layers import mlp
from pipeline.objectives import bernoulli_nll


class Autoencoder(nn.Module):
    r"""A fully connected autoencoder, :math:`z = f(x)`, trained to reconstruct: :math:`-\log p(x \mid z = f(x))`.

    Reference: Reducing the Dimensionality of Data with Neural Networks, doi:10.1126/science.1127647.

    Args:
        input_dim: pixels per image.
        latent_dim: dimensions of the code.
        hidden_dims: widths of the encoder's hidden layers; the decoder mirrors them.

    >>> import torch
    >>> Autoencoder(latent_dim=3).encode(torch.rand(5, 784)).shape
    torch.Size([5, 3])
    """

    noise_dim = 0
    has_plain_objective = True  # Bernoulli pixels and nothing else: the explicit step may stand in for `objective`

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256, 128)) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim, "hidden_dims": list(hidden_dims)}
        self.latent_dim = latent_dim
        self.encoder = mlp([input_dim, *hidden_dims, latent_dim])
        self.decoder = mlp([latent_dim, *reversed(hidden_dims), input_dim])

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes ``[B, latent_dim]`` of images ``[B, input_dim]`` in [0, 1]."""
        return self.encoder(x)

    def embed(self, x: Tensor) -> Tensor:
        """Return the point ``[B, latent_dim]`` at which each image lies in the latent space: its code."""
        return self.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixel logits ``[B, input_dim]`` at latent points ``[B, latent_dim]``."""
        return self.decoder(z)

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0, seen: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``loss`` and ``recon`` in nats per image, means over the batch ``[B, input_dim]``; no noise, no KL.

        ``seen`` is what the encoder sees of the images, in training; by default ``x``.
        """
        recon = bernoulli_nll(self.decode(self.encode(x if seen is None else seen)), x).mean()
        return {"loss": recon, "recon": recon}
