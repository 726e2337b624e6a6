"""Samplers of the latent space."""

import numpy as np
import pytest

from pipeline.evaluation.samplers import SAMPLERS


@pytest.mark.parametrize("name", ["gaussian", "gmm10", "kde"])
def test_fitted_samplers_have_the_moments_of_the_codes(name):
    codes = np.random.default_rng(0).normal(size=(2000, 2)) @ np.array([[30.0, 0.0], [20.0, 5.0]]) + 100
    z = SAMPLERS[name](codes, 4000, np.random.default_rng(1))
    assert z.shape == (4000, 2)
    assert z.mean(0) == pytest.approx(codes.mean(0), abs=3)
    assert np.cov(z.T) == pytest.approx(np.cov(codes.T), rel=0.15)
