"""Samplers of the latent space: the prior, and densities fitted to the codes after training."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def prior(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sample N(0, I), whatever the codes are."""
    return rng.standard_normal((size, codes.shape[1]))


def gaussian(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sample the Gaussian with the mean and covariance of the codes."""
    return rng.multivariate_normal(codes.mean(0), covariance(codes), size, method="cholesky")


def gmm10(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sample a mixture of ten Gaussians fitted to the codes (ex-post density estimation, 1903.12436)."""
    # The codes are rescaled to unit scale, so that the fit's small constants mean the same for every model.
    centre, scale = codes.mean(0), max(float(codes.std()), 1e-12)
    mixture = GaussianMixture(10, random_state=int(rng.integers(2**31)), reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # collapsed codes do not converge; the fit is still a density
        samples = mixture.fit((codes - centre) / scale).sample(size)[0]
    return np.asarray(rng.permutation(samples) * scale + centre)  # scikit-learn returns the samples sorted by component


def kde(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sample a kernel density estimate of the codes; the kernel is their Gaussian, scaled by Scott's factor."""
    steps = rng.multivariate_normal(np.zeros(codes.shape[1]), covariance(codes), size, method="cholesky")
    return codes[rng.integers(len(codes), size=size)] + scott(*codes.shape) * steps


def scott(size: int, dim: int) -> float:
    """Return Scott's factor for a kernel density estimate from ``size`` points in ``dim`` dimensions."""
    return float(size ** (-1 / (dim + 4)))


def covariance(codes: np.ndarray) -> np.ndarray:
    """Return the covariance ``[d, d]`` of codes ``[N, d]``, invertible even if the encoder does not use a dimension."""
    matrix = np.atleast_2d(np.cov(codes.T))
    return np.asarray(matrix + np.eye(len(matrix)) * (1e-9 * np.trace(matrix) + 1e-30))


SAMPLERS: dict[str, Sampler] = {"prior": prior, "gaussian": gaussian, "gmm10": gmm10, "kde": kde}
