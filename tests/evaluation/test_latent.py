"""The latent space's metrics on points of known distribution."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.latent import gaussian_fit_kl, latent
from tests.evaluation.conftest import SMALL, CodeTable, numbered


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


def test_principal_components_of_many_pixels_are_about_those_of_their_covariance(contexts, monkeypatch):
    expected = latent(contexts["vae"]).numbers["pca"]
    monkeypatch.setattr("pipeline.evaluation.latent.MAX_COVARIANCE", 10)
    assert latent(contexts["vae"]).numbers["pca"] == pytest.approx(expected, abs=0.01)


def test_scale_is_the_root_mean_variance_and_the_radius_holds_95_percent_of_the_codes():
    turns = np.linspace(0, 2 * np.pi, 101)
    rings = np.arange(101)[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    corners = np.array([[3, 4], [3, -4], [-3, 4], [-3, -4]] * 25)
    context = EvalContext(CodeTable(np.concatenate([rings, corners])), numbered(range(101)), numbered(range(101, 201)))
    numbers = latent(replace(context, budget=SMALL)).numbers
    assert numbers["radius_95"] == pytest.approx(95, abs=1e-3)
    assert numbers["scale"] == pytest.approx(np.sqrt((9 + 16) / 2), rel=1e-6)


def test_the_five_nearest_codes_decide_a_class():
    # Around the test images of each class: two codes of the other class, three of its own, then more of the other.
    codes, labels = [], []
    for label, middle in ((0, -100.0), (1, 100.0)):
        for count, radius, owner in ((2, 0.1, 1 - label), (3, 10.0, label), (8, 30.0, 1 - label)):
            turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
            codes += [[middle + radius * np.cos(turn), radius * np.sin(turn)] for turn in turns]
            labels += [owner] * count
    codes += [[middle + step, 0.0] for middle in (-100.0, 100.0) for step in (0.0, 0.2, 0.4)]
    train, test = numbered(range(26), labels), numbered(range(26, 32), [0, 0, 0, 1, 1, 1])
    assert latent(EvalContext(CodeTable(np.array(codes)), train, test, budget=SMALL)).numbers["knn_accuracy"] == 1.0
