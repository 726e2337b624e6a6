"""The terms of the evidence lower bound (ELBO), in nats per image."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


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


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Return the reconstruction term in nats per image ``[...]``: the pixels are independent Bernoulli variables.

    .. math:: -\log p(x \mid z) = \sum_i \mathrm{softplus}(l_i) - x_i l_i

    It is linear in ``x``, so for gray pixels it is the expectation over their binarization.

    Args:
        logits: the decoder's output ``[..., C, H, W]``.
        x: intensities in [0, 1], broadcastable to ``logits``.

    >>> bernoulli_nll(torch.zeros(1, 1, 28, 28), torch.full((1, 1, 28, 28), 0.3)).item()  # 784 ln 2
    543.42...
    """
    return functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").flatten(-3).sum(-1)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    r"""Return the KL divergence of a diagonal Gaussian from N(0, I) in nats per image and dimension, ``[..., d]``.

    .. math:: \tfrac12 (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)

    Reference: Auto-Encoding Variational Bayes, 1312.6114, appendix B.

    >>> gaussian_kl(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def negative_elbo(logits: Tensor, x: Tensor, posterior: Posterior, beta: float | Tensor = 1.0) -> dict[str, Tensor]:
    r"""Return ``loss``, ``recon`` and, for Gaussians, ``kl`` and ``kl_per_dim`` ``[d]``: means over the batch in nats per image.

    .. math:: L_\beta = E_{q(z \mid x)}[-\log p(x \mid z)] + \beta \, \mathrm{KL}(q(z \mid x) \| N(0, I))

    References: Auto-Encoding Variational Bayes, 1312.6114; beta-VAE, openreview Sy2fzU9gl.

    Args:
        logits: the decoder's output at samples of the posterior, ``[B, C, H, W]``.
        x: images ``[B, C, H, W]`` in [0, 1].
        posterior: that of these images; points have no KL term.
        beta: weight of the KL term in ``loss``; ``recon`` and ``kl`` are unweighted.
    """
    recon = bernoulli_nll(logits, x).mean()
    if posterior.logvar is None:
        return {"loss": recon, "recon": recon}
    kl_per_dim = gaussian_kl(posterior.mean, posterior.logvar).mean(0)
    kl = kl_per_dim.sum()
    return {"loss": recon + beta * kl, "recon": recon, "kl": kl, "kl_per_dim": kl_per_dim}
