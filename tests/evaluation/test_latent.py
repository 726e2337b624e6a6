"""The latent space's metrics on points of known distribution."""

import numpy as np
import pytest

from pipeline.evaluation.latent import gaussian_fit_kl, latent


def test_gaussian_fit_kl_of_a_shifted_normal():
    z = np.random.default_rng(0).normal(size=(20000, 2))
    assert gaussian_fit_kl(z) == pytest.approx(0, abs=1e-3)
    assert gaussian_fit_kl(z + 2) == pytest.approx(4, abs=0.05)
    assert gaussian_fit_kl(2 * z) == pytest.approx(0.5 * (8 - 2 - np.log(16)), abs=0.05)


def test_separate_classes_are_found(contexts):
    numbers = latent(contexts["vae"]).numbers
    assert numbers["knn_accuracy"] > 0.9
    assert numbers["pixels"]["knn_accuracy"] == 1.0
    assert numbers["radius_95_prior"] == pytest.approx(2.4477, abs=1e-3)
