"""Distances between sets of points against brute force."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.distances import cubic, mmd, multiquadric, nearest, prdc


@pytest.fixture
def points() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(90, 3)).astype(np.float32), (1.3 * rng.normal(size=(70, 3)) + 0.3).astype(np.float32)


def test_prdc_against_brute_force(points):
    real, fake = points

    def radius(x: np.ndarray, index: int, k: int) -> float:
        return sorted(float(np.linalg.norm(x[index] - other)) for other in x)[k]

    k = 5
    real_radii = [radius(real, index, k) for index in range(len(real))]
    fake_radii = [radius(fake, index, k) for index in range(len(fake))]
    inside = [[float(np.linalg.norm(f - r)) for f in fake] for r in real]
    in_real = [[inside[r][f] < real_radii[r] for r in range(len(real))] for f in range(len(fake))]
    in_fake = [any(inside[r][f] < fake_radii[f] for f in range(len(fake))) for r in range(len(real))]
    expected = {
        "precision": np.mean([any(row) for row in in_real]),
        "recall": np.mean(in_fake),
        "density": np.mean([sum(row) for row in in_real]) / k,
        "coverage": np.mean([min(row) < limit for row, limit in zip(inside, real_radii, strict=True)]),
    }
    assert prdc(real, fake, k) == pytest.approx(expected)


def test_unbiased_mmd_against_all_pairs(points):
    x, y = (part.astype(np.float64) for part in points)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 3 + 1) ** 3

    def within(a: np.ndarray) -> float:
        return (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))

    assert mmd(x, y, cubic) == pytest.approx(within(x) + within(y) - 2 * kernel(x, y).mean())


def test_mmd_is_around_zero_for_equal_distributions_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 2))
    assert abs(mmd(x, y, multiquadric)) < 0.02
    assert mmd(x, y + 0.5, multiquadric) < mmd(x, y + 1.0, multiquadric)
    assert mmd(x, y + 0.5, multiquadric) > 0.05


def test_multiquadric_kernel_of_a_pair():
    a, b = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    expected = sum(4 * scale / (4 * scale + 25) for scale in (0.1, 0.2, 0.5, 1, 2, 5, 10))
    assert multiquadric(a, b).item() == pytest.approx(expected)


def test_nearest_in_chunks(points):
    x = np.tile(points[0], (10, 1))
    expected = [np.sort(np.linalg.norm(points[1] - point, axis=1))[1] for point in points[0]]
    assert nearest(x, points[1], 2)[:90] == pytest.approx(expected, rel=1e-4)
