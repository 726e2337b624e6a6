"""How far one set of points is from another; matrices of all pairs are made in chunks of rows and never held whole."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

ROWS = 512


def _rows(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(x), ROWS):
        rows = slice(start, min(start + ROWS, len(x)))
        yield rows, torch.cdist(x[rows], y)


def nearest(x: np.ndarray, y: np.ndarray, k: int = 1) -> np.ndarray:
    """Return the Euclidean distance ``[N]`` of each of the points ``x`` ``[N, d]`` to its k-th nearest of ``y`` ``[M, d]``."""
    a, b = (torch.as_tensor(points, dtype=torch.float32) for points in (x, y))
    return torch.cat([distances.kthvalue(min(k, len(b)), dim=1).values for _, distances in _rows(a, b)]).numpy()


def kid(x: np.ndarray, y: np.ndarray) -> float:
    r"""Return the kernel distance, the unbiased squared MMD with :math:`k(a, b) = (a \cdot b / d + 1)^3`; around 0 for equals.

    Reference: Demystifying MMD GANs, 1801.01401.

    Args:
        x, y: features ``[N, d]``, ``[M, d]``.
    """

    def total(a: np.ndarray, b: np.ndarray) -> float:
        return sum(float(((a[i : i + ROWS] @ b.T / a.shape[1] + 1) ** 3).sum()) for i in range(0, len(a), ROWS))

    def within(a: np.ndarray) -> float:
        diagonal = float(((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum())
        return (total(a, a) - diagonal) / (len(a) * (len(a) - 1))

    x, y = x.astype(np.float64), y.astype(np.float64)
    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
    """Return precision, recall, density and coverage of fake points against real ones.

    A ball around each point reaches to its k-th nearest of its own set. ``precision``: share of fake points in a real ball;
    ``recall``: share of real points in a fake ball; ``density``: real balls around a fake point over k; ``coverage``: share of
    real balls with a fake point in them.

    References: 1904.06991 (precision, recall), 2002.09797 (density, coverage).

    Args:
        real, fake: features ``[N, d]``, ``[M, d]``.
        k: neighbours; the point itself does not count.
    """
    real_radius = torch.from_numpy(nearest(real, real, k + 1))
    fake_radius = torch.from_numpy(nearest(fake, fake, k + 1))
    x, y = (torch.as_tensor(points, dtype=torch.float32) for points in (real, fake))
    inside_real = torch.zeros(len(y))
    recalled = covered = 0
    for rows, distances in _rows(x, y):
        inside_real += (distances < real_radius[rows, None]).sum(0)
        recalled += int((distances < fake_radius).any(1).sum())
        covered += int((distances.min(1).values < real_radius[rows]).sum())
    return {
        "precision": float((inside_real > 0).float().mean()),
        "recall": recalled / len(x),
        "density": float(inside_real.mean()) / k,
        "coverage": covered / len(x),
    }
