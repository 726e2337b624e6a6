"""Distances between two sets of points; matrices of all pairs are computed in chunks of rows."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

ROWS = 512
KERNEL_ROWS = 64  # so that a block of thousands of columns in float64 stays in the cache


def _rows(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, torch.cdist(x[rows], y)


def nearest(x: np.ndarray, y: np.ndarray, k: int = 1) -> np.ndarray:
    """Return the Euclidean distance ``[N]`` of each of the points ``x`` ``[N, d]`` to its k-th nearest of ``y`` ``[M, d]``."""
    a, b = (torch.as_tensor(points, dtype=torch.float32) for points in (x, y))
    k = min(k, len(b))
    return torch.cat([distances.topk(k, dim=1, largest=False).values[:, -1] for _, distances in _rows(a, b)]).numpy()


def cubic(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the kernel of the KID, :math:`(a \cdot b / d + 1)^3`. Reference: Demystifying MMD GANs, 1801.01401."""
    base = a @ b.mT / a.shape[-1] + 1
    return base * base * base  # ** 3 would take a logarithm of each


def multiquadric(a: Tensor, b: Tensor) -> Tensor:
    r"""Return :math:`\sum_s 2 d s / (2 d s + \|a - b\|^2)`. Reference: Wasserstein Auto-Encoders, 1711.01558, section 4."""
    squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    constants = (2 * a.shape[-1] * scale for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    return sum((constant / (constant + squared) for constant in constants), torch.zeros_like(squared))


def mmd(x: np.ndarray, y: np.ndarray, kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    r"""Return the unbiased squared maximum mean discrepancy of points ``[N, d]`` and ``[M, d]``; around 0 for equals.

    .. math:: \mathrm{MMD}^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)
    """

    def total(a: Tensor, b: Tensor) -> float:
        return math.fsum(float(kernel(rows, b).sum()) for rows in torch.split(a, KERNEL_ROWS))

    def within(a: Tensor) -> float:
        return (total(a, a) - float(kernel(a[:, None], a[:, None]).sum())) / (len(a) * (len(a) - 1))

    first, second = (torch.from_numpy(points).double() for points in (x, y))
    return within(first) + within(second) - 2 * total(first, second) / (len(x) * len(y))


def prdc(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Return precision, recall, density and coverage of fake points ``[M, d]`` against real points ``[N, d]``.

    A ball around each point reaches to its k-th nearest neighbour in its own set. ``precision``: share of fake points in a
    real ball; ``recall``: share of real points in a fake ball; ``density``: real balls around a fake point, over k;
    ``coverage``: share of real balls with a fake point in them.

    References: 1904.06991 (precision, recall), 2002.09797 (density, coverage).
    """
    real_radius, fake_radius = (torch.from_numpy(nearest(points, points, k + 1)) for points in (real, fake))
    x, y = (torch.as_tensor(points, dtype=torch.float32) for points in (real, fake))
    inside_real = torch.zeros(len(y))
    recalled = covered = 0
    for rows, distances in _rows(x, y):
        inside_real += (distances < real_radius[rows, None]).sum(0)
        recalled += int((distances < fake_radius).any(1).sum())
        covered += int((distances.amin(1) < real_radius[rows]).sum())
    return {
        "precision": float((inside_real > 0).float().mean()),
        "recall": recalled / len(x),
        "density": float(inside_real.mean()) / k,
        "coverage": covered / len(x),
    }
