"""The latent space's metrics on points of known distribution."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data import Images
from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.latent import gaussian_fit_kl, latent
from pipeline.models.base import LatentModel
from pipeline.models.objectives import Posterior
from tests.evaluation.conftest import SMALL


class PixelsAsCodes(LatentModel):
    """Encodes an image of two pixels as these pixels."""

    outputs_per_dim, is_probabilistic = 1, False

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(2, 2), latent_dim=2)

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(x.flatten(1), None)


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


def test_the_five_nearest_codes_decide_a_class():
    # Around the test images of each class: two codes of the other class, three of its own, then more of the other.
    around = {0.0: 2, 10.0: 3, 30.0: 8}
    train, labels = [], []
    for label, middle in enumerate((60, 190)):
        for index, (distance, count) in enumerate(around.items()):
            for turn in np.linspace(0, 2 * np.pi, count, endpoint=False):
                train.append([middle + round(distance * np.cos(turn)), middle + round(distance * np.sin(turn))])
                labels.append(label if index == 1 else 1 - label)
    test = np.repeat([[60, 60], [190, 190]], 6, axis=0) + np.tile([[0, 0], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], (2, 1))
    parts = [
        Images(np.uint8(points).reshape(-1, 1, 1, 2), np.int64(classes))
        for points, classes in ((train, labels), (test, np.repeat([0, 1], 6)))
    ]
    numbers = latent(EvalContext(PixelsAsCodes(), *parts, budget=SMALL)).numbers
    assert numbers["knn_accuracy"] == numbers["pixels"]["knn_accuracy"] == 1.0
