"""Where in the latent space a sampler draws: the prior, and densities fitted to the codes after training."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

COMPONENTS = 10


def prior(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from N(0, I), whatever the codes are."""
    return rng.standard_normal((size, codes.shape[1]))


def gaussian(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from the Gaussian with the mean and covariance of the codes."""
    return codes.mean(0) + rng.standard_normal((size, codes.shape[1])) @ _root(codes).T


def gmm10(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from a mixture of ten Gaussians fitted to the codes (ex-post density estimation, 1903.12436)."""
    # Fitted to codes of unit scale, so that the fit's own small numbers mean the same for every model.
    centre, scale = codes.mean(0), max(float(codes.std()), 1e-12)
    mixture = GaussianMixture(COMPONENTS, random_state=int(rng.integers(2**31)), reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of collapsed codes; what it found is still a density
        z = mixture.fit((codes - centre) / scale).sample(size)[0]
    # scikit-learn returns the draws component by component.
    return rng.permutation(z) * scale + centre


def kde(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from a kernel density estimate of the codes, with Scott's bandwidth times their covariance."""
    steps = rng.standard_normal((size, codes.shape[1])) @ _root(codes).T
    return codes[rng.integers(len(codes), size=size)] + scott(*codes.shape) * steps


def scott(size: int, dim: int) -> float:
    """Return Scott's factor for a kernel density estimate from ``size`` points in ``dim`` dimensions."""
    return float(size ** (-1 / (dim + 4)))


def covariance(codes: np.ndarray) -> np.ndarray:
    """Return the covariance ``[d, d]`` of codes ``[N, d]``, kept invertible where an encoder does not use a dimension."""
    matrix = np.atleast_2d(np.cov(codes.T))
    return matrix + np.eye(len(matrix)) * (1e-9 * np.trace(matrix) + 1e-30)


def _root(codes: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(covariance(codes))


SAMPLERS: dict[str, Sampler] = {"prior": prior, "gaussian": gaussian, "gmm10": gmm10, "kde": kde}
