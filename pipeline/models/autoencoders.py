"""The autoencoder and the variational autoencoder; beta is an argument of the objective."""

from torch import Tensor

from pipeline.models.base import LatentModel
from pipeline.models.objectives import Posterior


class Autoencoder(LatentModel):
    r"""An autoencoder, :math:`z = f(x)`, trained to reconstruct: :math:`-\log p(x \mid z = f(x))`.

    Reference: Reducing the Dimensionality of Data with Neural Networks, doi:10.1126/science.1127647.
    """

    outputs_per_dim = 1
    is_probabilistic = False

    def encode(self, x: Tensor) -> Posterior:
        """Return the codes ``[B, latent_dim]`` of images ``[B, C, H, W]`` in [0, 1]: a point each."""
        return Posterior(self.encoder(x), None)


class VAE(LatentModel):
    """A variational autoencoder with a diagonal Gaussian posterior (Auto-Encoding Variational Bayes, 1312.6114)."""

    outputs_per_dim = 2
    is_probabilistic = True

    def encode(self, x: Tensor) -> Posterior:
        """Return mean and log variance ``[B, latent_dim]`` for images ``[B, C, H, W]`` in [0, 1]."""
        return Posterior(*self.encoder(x).chunk(2, dim=-1))
