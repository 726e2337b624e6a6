"""Standard errors, t intervals, bootstrap of means, and the Fréchet distance; numpy and scipy alone."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

Values = np.ndarray | Sequence[float]


def standard_error(values: Values) -> float:
    """Return the standard error of the mean of ``[N]`` values; 0 for a single one.

    >>> standard_error([1.0, 3.0])
    1.0
    """
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def t_interval(values: Values, level: float = 0.95) -> tuple[float, float]:
    """Return the mean of ``[N]`` values, N > 1, and half the width of its Student's t confidence interval.

    >>> mean, half_width = t_interval([1.0, 2.0, 3.0])
    >>> mean, round(half_width, 4)
    (2.0, 2.4841)
    """
    return float(np.mean(values)), float(stdtrit(len(values) - 1, (1 + level) / 2)) * standard_error(values)


def bootstrap_means(values: np.ndarray, rng: np.random.Generator, replicates: int = 2000) -> np.ndarray:
    """Return the means ``[replicates]`` of resamples, with replacement, of values ``[N]``.

    >>> bootstrap_means(np.array([5.0, 5.0]), np.random.default_rng(0), replicates=3)
    array([5., 5., 5.])
    """
    # A multinomial draw says how often each value is taken, which needs no matrix of indices.
    counts = (rng.multinomial(len(values), np.full(len(values), 1 / len(values))) for _ in range(replicates))
    return np.array([count @ values for count in counts]) / len(values)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    r"""Return the squared Fréchet distance between the Gaussians fitted to two sets of points ``[N, d]``, ``[M, d]``.

    .. math:: \|m_x - m_y\|^2 + \mathrm{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    It is biased upwards for few points; compare it with the distance between two real sets of the same sizes.
    Reference: GANs Trained by a Two Time-Scale Update Rule, 1706.08500.

    >>> points = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(points, points + 2), 6)  # a shift by 2 in each of 3 dimensions
    12.0
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    s_x, s_y = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(s_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s_y @ root).clip(0)).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s_x) + np.trace(s_y) - 2 * cross)
