"""The Fréchet distance, in which the contest of samples and the claims ledger count; numpy alone."""

import numpy as np


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    r"""Return the squared Fréchet distance between the Gaussians fitted to two sets of points ``[N, d]``, ``[M, d]``.

    .. math:: \|m_x - m_y\|^2 + \mathrm{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    It is biased upwards by few points, so it is read beside the distance of real from real at the same numbers.
    Reference: GANs Trained by a Two Time-Scale Update Rule, 1706.08500.

    >>> points = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet(points, points + 2), 6)  # a shift by 2 in each of 3 dimensions
    12.0
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    s_x, s_y = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(s_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s_y @ root).clip(0)).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s_x) + np.trace(s_y) - 2 * cross)
