r"""The likelihoods of pixels: what a decoder's output means, and the reconstruction term :math:`-\log p(x \mid z)` in nats.

The pixels are independent given the output ``logits`` ``[..., C, H, W]``. Images ``x`` are intensities in [0, 1], broadcastable
to it.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 256
_SMALL = 1e-2  # logits around 0, where a series replaces a quotient of two small numbers
_LEAST_SCALE = 1e-3  # a quarter of a level; without a limit the density of constant pixels grows for ever


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Return the reconstruction term ``[...]`` of black and white pixels.

    .. math:: -\log p(x \mid z) = \sum_i \mathrm{softplus}(l_i) - x_i l_i

    It is linear in ``x``, so for gray pixels it is the expectation over their binarization.

    >>> bernoulli_nll(torch.zeros(1, 1, 28, 28), torch.full((1, 1, 28, 28), 0.3)).item()  # 784 ln 2
    543.42...
    """
    return functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").flatten(-3).sum(-1)


def _exact(logits: Tensor) -> Tensor:
    """Return what a decoder in bfloat16 puts out as float32, in which all that follows is computed."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _center(logits: Tensor) -> Tensor:
    return torch.sigmoid(_exact(logits))


def _log_normalizer(logits: Tensor) -> Tensor:
    r""":math:`\log C = \log (l / \tanh(l / 2))` of the continuous Bernoulli distribution with logit l."""
    is_small = logits.abs() < _SMALL
    safe = torch.where(is_small, 1.0, logits)
    return torch.where(is_small, math.log(2) + logits.square() / 12, torch.log(safe / torch.tanh(safe / 2)))


def continuous_bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Return the reconstruction term ``[...]`` of a density over [0, 1] (The continuous Bernoulli, 1907.06845).

    .. math:: p(x \mid z) = C(\lambda) \lambda^x (1 - \lambda)^{1 - x}, \quad \lambda = \mathrm{sigmoid}(l)

    >>> continuous_bernoulli_nll(torch.zeros(1, 2, 2), torch.rand(1, 2, 2))  # uniform: the density is 1
    tensor(0.)
    """
    logits = _exact(logits)
    return bernoulli_nll(logits, x) - _log_normalizer(logits).flatten(-3).sum(-1)


def gaussian_nll(logits: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    r"""Return the reconstruction term ``[...]`` of a density: normal around sigmoid(l), of one standard deviation ``scale``.

    >>> gaussian_nll(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.5), torch.tensor(1.0))  # ln(2 pi) / 2
    tensor(0.9189)
    """
    z = (x - _center(logits)) / scale
    return (0.5 * z.square() + torch.log(scale) + 0.5 * math.log(2 * math.pi)).flatten(-3).sum(-1)


def discretized_logistic_nll(logits: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    r"""Return the reconstruction term ``[...]`` of 256 levels: the mass of a logistic distribution in the level's interval.

    The distribution lies around sigmoid(l) with one ``scale``. The first and the last interval have one end.

    .. math:: p = \mathrm{sigmoid}(a)\, \mathrm{sigmoid}(-b)\, (1 - e^{b - a}), \quad
              a, b = (x \pm \tfrac{1}{510} - \mathrm{sigmoid}(l)) / s

    Reference: Improved Variational Inference with Inverse Autoregressive Flow, 1606.04934.

    >>> levels = torch.linspace(0, 1, 256).view(256, 1, 1, 1)
    >>> nats = discretized_logistic_nll(torch.zeros(256, 1, 1, 1), levels, torch.tensor(0.3))
    >>> round(nats.neg().exp().sum().item(), 4)
    1.0
    """
    half = 0.5 / (LEVELS - 1)
    z, width = (x - _center(logits)) / scale, half / scale
    is_first, is_last = x < half, x > 1 - half
    upper = torch.where(is_last, 0.0, functional.logsigmoid(z + width))
    lower = torch.where(is_first, 0.0, functional.logsigmoid(width - z))
    inner = torch.where(is_first | is_last, 0.0, torch.log(-torch.expm1(-2 * width)))
    return -(upper + lower + inner).flatten(-3).sum(-1)


class Likelihood(nn.Module, ABC):
    """The distribution of an image's pixels given a decoder's output."""

    is_density: ClassVar[bool] = False
    """Whether pixels are real numbers; their nats then compare with those of densities alone."""

    @abstractmethod
    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return the reconstruction term ``[...]`` in nats per image of ``x`` ``[..., C, H, W]`` in [0, 1]."""

    def mean(self, logits: Tensor) -> Tensor:
        """Return the intensities in [0, 1] that are shown, ``[..., C, H, W]``: the mean, or where the distribution lies."""
        return torch.sigmoid(logits)

    def bits_per_dim(self, nats: float, dimensions: int) -> float:
        """Return the bits for each pixel and channel of a negative log likelihood, for densities of 256 levels.

        A density counts as constant over a level, which adds eight bits, so that it compares with
        :func:`discretized_logistic_nll`. Bernoulli pixels are black or white.
        """
        return nats / (dimensions * math.log(2)) + (math.log2(LEVELS) if self.is_density else 0.0)


class LinearLikelihood(Likelihood):
    r"""A likelihood whose logarithm is linear in the pixels, :math:`\log p(x \mid z) = \sum_i x_i l_i + \log p(0 \mid z)`.

    So those of many images at many codes are one matmul.
    """

    @abstractmethod
    def log_normalizer(self, logits: Tensor) -> Tensor:
        """Return the logarithm ``[..., C, H, W]`` of the likelihood that each pixel is 0, in nats."""


class Bernoulli(LinearLikelihood):
    """Black and white pixels: :func:`bernoulli_nll`."""

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return bernoulli_nll(logits, x)

    def log_normalizer(self, logits: Tensor) -> Tensor:
        return -functional.softplus(logits)


class ContinuousBernoulli(LinearLikelihood):
    """Gray pixels as a density over [0, 1]: :func:`continuous_bernoulli_nll`."""

    is_density = True

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return continuous_bernoulli_nll(logits, x)

    def mean(self, logits: Tensor) -> Tensor:
        is_small = logits.abs() < _SMALL
        safe = torch.where(is_small, 1.0, logits)
        return torch.where(is_small, 0.5 + logits / 12, torch.sigmoid(safe) / torch.tanh(safe / 2) - 1 / safe)

    def log_normalizer(self, logits: Tensor) -> Tensor:
        return _log_normalizer(logits) - functional.softplus(logits)


class _Scaled(Likelihood):
    """A likelihood with one learned scale (Simple and Effective VAE Training with Calibrated Decoders, 2006.13202)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(0.1)]))

    @property
    def scale(self) -> Tensor:
        """The scale ``[1]``, above a quarter of a level."""
        return self.log_scale.exp() + _LEAST_SCALE


class Gaussian(_Scaled):
    """Pixels as a density: :func:`gaussian_nll` with a learned standard deviation."""

    is_density = True

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return gaussian_nll(logits, x, self.scale)


class DiscretizedLogistic(_Scaled):
    """Pixels of 256 levels: :func:`discretized_logistic_nll` with a learned scale."""

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return discretized_logistic_nll(logits, x, self.scale)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "discretized_logistic": DiscretizedLogistic,
}


def likelihood_for(name: str, channels: int) -> str:
    """Return the likelihood that ``auto`` stands for, or the name itself: Bernoulli for gray images, 256 levels for color.

    >>> likelihood_for("auto", channels=3)
    'discretized_logistic'
    """
    return name if name != "auto" else "bernoulli" if channels == 1 else "discretized_logistic"
