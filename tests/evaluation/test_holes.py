"""Holes of known mass, hulls and densities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.classifier import Classifier, ClassifierNet
from pipeline.data import Images
from pipeline.evaluation.context import NO_CLASSIFIER, EvalContext
from pipeline.evaluation.holes import holes, hull, log_density
from pipeline.evaluation.plot_data import grid
from pipeline.models.base import LatentModel
from pipeline.models.objectives import Posterior
from pipeline.runtime import generator
from tests.evaluation.conftest import SMALL


class _Disc(LatentModel):
    """Decodes to a white image, and to noise within a disc around the origin."""

    outputs_per_dim, is_probabilistic = 1, False

    def __init__(self, radius: float) -> None:
        super().__init__(nn.Linear(1, 1), nn.Identity(), latent_dim=2)
        self.radius = radius

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(torch.randn(len(x), 2, generator=generator("disc")), None)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(z), 1, 8, 8, generator=generator("noise"))
        return torch.where(z.norm(dim=1)[:, None, None, None] < self.radius, noise, torch.full((1, 1, 8, 8), 9.0))


class _SureOfUniformImages(Classifier):
    """Is sure of images of one gray level and unsure of noise; its features say which."""

    def predict(self, images):
        spread = torch.as_tensor(images).flatten(-3).std(-1).numpy()
        top = np.where(spread < 0.01, 0.99, 0.4)
        return spread[..., None].astype(np.float32), np.stack([top, 1 - top], axis=-1).astype(np.float32)


def test_planted_hole_is_found_with_its_mass():
    white = Images(np.full((400, 1, 8, 8), 255, np.uint8), np.arange(400) % 2)
    classifier = _SureOfUniformImages(ClassifierNet((1, 8, 8), 2), "white", 1.0)
    context = EvalContext(_Disc(1.0), white, white, budget=replace(SMALL, samples=4000), classifier=classifier)
    numbers = holes(context).numbers
    planted = 1 - np.exp(-0.5)
    error = np.sqrt(planted * (1 - planted) / 4000)
    for key in ("confidence_below_80", "confidence_below_90", "off_manifold"):
        assert numbers["prior"][key] == pytest.approx(planted, abs=4 * error)
        # The codes are a standard normal here, so the fitted Gaussian says about the same.
        assert numbers["matched"][key] == pytest.approx(planted, abs=0.07)
    assert np.linalg.norm(holes(context).arrays["hole_code"]) < 1.0
    assert holes(context).arrays["hole_image"].std() > 0.1, "noise, and not a white image"
    assert 0 < numbers["hull"]["confidence_below_80"] < planted
    assert numbers["hull"]["coverage"] > numbers["prior"]["coverage"]


class _Radius(LatentModel):
    """Decodes to an even gray, which over N(0, I) is uniform between 0 and 100 of 255 levels."""

    outputs_per_dim, is_probabilistic = 1, False

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), nn.Identity(), latent_dim=2)

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(torch.randn(len(x), 2, generator=generator("radius")), None)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        share = 1 - (-0.5 * z.square().sum(1)).exp()
        return torch.logit(share * 100 / 255, eps=1e-6)[:, None, None, None].expand(-1, 1, 8, 8)


class _Gray(Classifier):
    """Its feature is the mean gray level."""

    def predict(self, images):
        level = 255 * torch.as_tensor(images).flatten(-3).mean(-1, keepdim=True).numpy().astype(np.float32)
        return level, np.full((*level.shape[:-1], 2), 0.5, np.float32)


def test_off_the_manifold_is_further_from_the_training_images_than_95_percent_of_the_test_images():
    levels = np.arange(101, dtype=np.uint8)
    train, test = (
        Images(np.broadcast_to(level[:, None, None, None], (len(level), 1, 8, 8)).copy()) for level in (levels * 0, levels)
    )
    context = EvalContext(
        _Radius(), train, test, budget=replace(SMALL, samples=4000), classifier=_Gray(ClassifierNet((1, 8, 8), 2), "", 1.0)
    )
    assert holes(context).numbers["prior"]["off_manifold"] == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 4000))


def test_confidence_is_counted_below_each_percentage(contexts):
    result = holes(contexts["vae"])
    for name in ("prior", "matched", "hull"):
        confidence = result.arrays[f"confidence_{name}"]
        for percent in (50, 80, 90):
            assert result.numbers[name][f"confidence_below_{percent}"] == (confidence < percent / 100).mean()


class _Narrow(_Radius):
    """Its codes have half of the prior's standard deviation."""

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(super().encode(x).mean / 2, None)


def test_coverage_is_the_mass_of_the_prior_where_codes_are_ten_times_rarer():
    images = Images(np.zeros((400, 1, 8, 8), np.uint8))
    context = EvalContext(
        _Narrow(), images, images, budget=replace(SMALL, samples=4000), classifier=_Gray(ClassifierNet((1, 8, 8), 2), "", 1.0)
    )
    variance = 0.25 * (1 + 400 ** (-1 / 3))  # of the codes, with the kernel's
    radius_squared = 2 * np.log(10 / variance) / (1 / variance - 1)
    assert holes(context).numbers["prior"]["coverage"] == pytest.approx(np.exp(-radius_squared / 2), abs=0.03)


def test_points_of_the_hull_are_uniform():
    # A trapezoid of two triangles, one three times the other, and a point inside that is no corner.
    codes = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    z = hull(codes, 20000, np.random.default_rng(0))
    assert (z.min(0) >= 0).all()
    assert (z @ [1.0, 2.0] <= 3 + 1e-9).all()
    assert z.mean(0) == pytest.approx([13 / 12, 5 / 12], abs=0.02)


def test_density_integrates_to_one():
    centres = np.random.default_rng(0).normal(size=(300, 2)) * [3.0, 0.5]
    x, y = np.linspace(-15, 15, 200), np.linspace(-3, 3, 200)
    density = np.exp(log_density(grid(x, y).reshape(-1, 2), centres))
    assert density.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1, abs=1e-3)


def test_density_moves_with_its_centres_under_affine_maps():
    rng = np.random.default_rng(0)
    centres, z = rng.normal(size=(300, 2)) * [3.0, 0.5], rng.normal(size=(50, 2))
    turn, shift = np.array([[3.0, 4.0], [-40.0, 30.0]]), np.array([7.0, -2.0])
    moved = log_density(z @ turn.T + shift, centres @ turn.T + shift)
    assert moved == pytest.approx(log_density(z, centres) - np.log(np.linalg.det(turn)), abs=1e-3)


def test_nothing_is_measured_without_a_classifier(contexts):
    assert holes(replace(contexts["ae"], classifier=None)).numbers == {"note": NO_CLASSIFIER}
