"""The terms of the evidence lower bound (ELBO), in nats per image."""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """What an encoder returns for images: diagonal Gaussians, or points.

    >>> Posterior(torch.ones(5, 2), None).sample(torch.zeros(5, 0)).shape
    torch.Size([5, 2])
    """

    mean: Tensor
    """The code of each image, ``[B, d]``."""
    logvar: Tensor | None
    """Logarithm of the variance, ``[B, d]``; None for points."""

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[B, d]``; zeros for points."""
        return torch.zeros_like(self.mean) if self.logvar is None else torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        r"""Return :math:`z = \mu + \sigma \epsilon` (1312.6114, section 2.4) of normal noise ``[..., B, d]``, or the points."""
        return self.mean if self.logvar is None else self.mean + self.std * noise


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    r"""Return the KL divergence of a diagonal Gaussian from N(0, I) in nats per image and dimension, ``[..., d]``.

    .. math:: \tfrac12 (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)

    Reference: Auto-Encoding Variational Bayes, 1312.6114, appendix B.

    >>> gaussian_kl(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def negative_elbo(nll: Tensor, posterior: Posterior, beta: float | Tensor = 1.0) -> dict[str, Tensor]:
    r"""Return ``loss``, ``recon`` and, for Gaussians, ``kl`` and ``kl_per_dim`` ``[d]``: means over the batch in nats per image.

    .. math:: L_\beta = E_{q(z \mid x)}[-\log p(x \mid z)] + \beta \, \mathrm{KL}(q(z \mid x) \| N(0, I))

    References: Auto-Encoding Variational Bayes, 1312.6114; beta-VAE, openreview Sy2fzU9gl.

    Args:
        nll: the reconstruction term ``[B]`` of images at samples of their posterior, of a likelihood in
            :mod:`pipeline.models.likelihoods`.
        posterior: that of these images; points have no KL term.
        beta: weight of the KL term in ``loss``; ``recon`` and ``kl`` are unweighted.
    """
    recon = nll.mean()
    if posterior.logvar is None:
        return {"loss": recon, "recon": recon}
    kl_per_dim = gaussian_kl(posterior.mean, posterior.logvar).mean(0)
    kl = kl_per_dim.sum()
    return {"loss": recon + beta * kl, "recon": recon, "kl": kl, "kl_per_dim": kl_per_dim}
