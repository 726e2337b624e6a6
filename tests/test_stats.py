"""Standard errors, intervals, bootstrap and Fréchet distance, against formulas and simulation."""

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import sqrtm

from pipeline.stats import bootstrap_means, frechet_distance, standard_error, t_interval


@pytest.mark.parametrize("size", [2, 7])
def test_standard_error_and_t_interval_are_those_of_scipy(size: int):
    values = np.random.default_rng(0).normal(size=size)
    assert standard_error(values) == pytest.approx(stats.sem(values))
    mean, half_width = t_interval(values, level=0.9)
    expected = stats.t.interval(0.9, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx(expected)


def test_an_interval_is_at_95_percent_unless_asked_otherwise():
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841), abs=1e-4)


def test_standard_error_of_one_value_is_zero():
    assert standard_error([3.0]) == 0.0


def test_bootstrap_means_scatter_by_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    means = bootstrap_means(values, np.random.default_rng(1), replicates=1000)
    assert means.shape == (1000,)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * standard_error(values) / 1000**0.5)
    assert means.std() == pytest.approx(standard_error(values), rel=0.1)


def test_frechet_distance_against_the_matrix_square_root():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 3)), 1.3 * rng.normal(size=(70, 3)) + 0.3
    s_x, s_y = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s_x + s_y - 2 * sqrtm(s_x @ s_y).real)
    assert frechet_distance(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_of_points_on_a_line_is_that_of_one_dimension(seed: int):
    # All but one eigenvalue of the covariances are zero, up to rounding to either side.
    rng = np.random.default_rng(seed)
    x, y, direction = rng.normal(size=50), 3 * rng.normal(size=60) + 1, rng.normal(size=8)
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    found = frechet_distance(np.outer(x, direction), np.outer(y, direction))
    assert found == pytest.approx(expected * direction @ direction, rel=1e-6)
