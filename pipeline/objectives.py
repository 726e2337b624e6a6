"""The terms of the evidence lower bound, written once: nats per image, one value for each image of the batch."""

import torch
from torch import Tensor
from torch.nn import functional


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Return the reconstruction term, the negative log-likelihood of the pixels under independent Bernoullis.

    .. math:: -\log p(x \mid z) = \sum_i \mathrm{softplus}(l_i) - x_i l_i

    It is linear in ``x``, so for grey pixels it is the expectation over their binarisation.

    Args:
        logits: the decoder's output ``[..., D]``.
        x: pixel intensities in [0, 1], broadcastable to ``logits``.

    Returns:
        Nats per image ``[...]``.

    >>> bernoulli_nll(torch.zeros(1, 784), torch.full((1, 784), 0.3)).item()  # 784 ln 2
    543.42...
    """
    return functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    r"""Return the KL divergence of a diagonal Gaussian from the standard normal, for each dimension.

    .. math:: \tfrac12 (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)

    Reference: Auto-Encoding Variational Bayes, 1312.6114, appendix B.

    Args:
        mean, logvar: ``[..., d]``.

    Returns:
        Nats per image and dimension ``[..., d]``.

    >>> gaussian_kl(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def reparameterise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    r"""Return :math:`z = \mu + \sigma \epsilon`, a draw from the posterior (1312.6114, section 2.4).

    Args:
        mean, logvar, noise: ``[..., d]``; the noise is standard normal.
    """
    return mean + torch.exp(0.5 * logvar) * noise
