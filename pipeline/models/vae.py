"""The variational autoencoder; beta is an argument of its objective, not another class."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.models.layers import mlp
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise


class VAE(nn.Module):
    r"""A fully connected VAE with a diagonal Gaussian posterior and Bernoulli pixels.

    .. math:: L_\beta = E_{q(z \mid x)}[-\log p(x \mid z)] + \beta \, \mathrm{KL}(q(z \mid x) \| N(0, I))

    References: Auto-Encoding Variational Bayes, 1312.6114; beta-VAE, openreview Sy2fzU9gl.

    Args:
        input_dim: pixels per image.
        latent_dim: dimensions of the latent space.
        hidden_dims: widths of the encoder's hidden layers; the decoder mirrors them.

    >>> import torch
    >>> mean, logvar = VAE(latent_dim=16).encode(torch.rand(5, 784))
    >>> mean.shape, logvar.shape
    (torch.Size([5, 16]), torch.Size([5, 16]))
    """

    has_plain_objective = True  # Bernoulli pixels + beta KL: the explicit step may stand in for `objective`

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim, "hidden_dims": list(hidden_dims)}
        self.latent_dim = self.noise_dim = latent_dim
        self.encoder = mlp([input_dim, *hidden_dims, 2 * latent_dim])
        self.decoder = mlp([latent_dim, *reversed(hidden_dims), input_dim])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's ``(mean, logvar)``, each ``[B, latent_dim]``, for images ``[B, input_dim]`` in [0, 1]."""
        mean, logvar = self.encoder(x).chunk(2, dim=-1)
        return mean, logvar

    def embed(self, x: Tensor) -> Tensor:
        """Return the point ``[B, latent_dim]`` at which each image lies in the latent space: the posterior's mean."""
        return self.encode(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixel logits ``[B, input_dim]`` at latent points ``[B, latent_dim]``."""
        return self.decoder(z)

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0, seen: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``loss``, ``recon`` and ``kl`` in nats per image, means over the batch, and ``kl_per_dim`` ``[latent_dim]``.

        Args:
            x: images ``[B, input_dim]`` in [0, 1].
            noise: standard normal ``[B, latent_dim]``.
            beta: weight of the KL term in ``loss``; ``recon`` and ``kl`` are reported unweighted.
            seen: what the encoder sees of the images, in training; by default ``x``.
        """
        mean, logvar = self.encode(x if seen is None else seen)
        recon = bernoulli_nll(self.decode(reparameterise(mean, logvar, noise)), x).mean()
        kl_per_dim = gaussian_kl(mean, logvar).mean(0)
        kl = kl_per_dim.sum()
        return {"loss": recon + beta * kl, "recon": recon, "kl": kl, "kl_per_dim": kl_per_dim}
