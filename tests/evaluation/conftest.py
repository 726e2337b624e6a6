"""A trained autoencoder and VAE of the blobs with a classifier, and a model with given codes, for the tests of the metrics."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import runtime
from pipeline.classifier import Classifier, train_classifier
from pipeline.data import Dataset, Images
from pipeline.evaluation.context import Budget, EvalContext
from pipeline.models import LatentModel, ModelConfig
from pipeline.models.objectives import Posterior
from tests.conftest import blobs

SMALL = Budget(400, 400, importance_images=60, exact_images=400, grid=96, plots=200, samples=300, pairs=40)


def new_model(name: str, latent_dim: int = 2, hidden_dims: tuple[int, ...] = (8,), size: int = 8, seed: int = 0) -> LatentModel:
    """Return an untrained model of images ``[1, size, size]``, its weights drawn by ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ModelConfig(name, "mlp", (1, size, size), latent_dim, hidden_dims).build()


@pytest.fixture(scope="session")
def train() -> Images:
    """Training images of the metrics' tests."""
    return blobs(400, seed=0)


@pytest.fixture(scope="session")
def test() -> Images:
    """Test images of the metrics' tests."""
    return blobs(200, seed=1)


@pytest.fixture(scope="session")
def classifier(train: Images, test: Images) -> Classifier:
    """A classifier of the blobs."""
    with runtime.use("cpu", threads=1):
        trained = train_classifier(Dataset("blobs", train, test), num_steps=60, seed=0)
    assert trained
    return trained


@pytest.fixture(scope="session")
def contexts(train: Images, test: Images, classifier: Classifier) -> dict[str, EvalContext]:
    """A trained autoencoder and a trained VAE with the blobs, by their names in the registry."""
    x, found = torch.from_numpy(train.intensities), {}
    for name, beta in (("ae", None), ("vae", 1.0)):
        model = new_model(name, hidden_dims=(32,), seed=1)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        with runtime.use("cpu", threads=1):
            for step in range(300):
                optimizer.zero_grad()
                noise = torch.randn(len(x), model.noise_dim, generator=runtime.generator("test", step))
                model.loss_terms(x, noise)["loss"].backward()
                optimizer.step()
        found[name] = EvalContext(model.eval(), train, test, beta=beta, budget=SMALL, classifier=classifier)
    return found


class CodeTable(LatentModel):
    """Encodes an image of two pixels, a number in base 256, as the code ``[2]`` of this number; decodes z to logits z."""

    outputs_per_dim, is_probabilistic = 1, False

    def __init__(self, codes: np.ndarray) -> None:
        super().__init__(nn.Flatten(), nn.Linear(2, 2), latent_dim=2)
        self.codes = torch.from_numpy(codes).float()

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(self.codes[(x.flatten(1) * 255).round().long() @ torch.tensor([256, 1])], None)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, None, None, :]


def numbered(rows: Sequence[int] | np.ndarray, labels: Sequence[int] | None = None) -> Images:
    """Return the images that :class:`CodeTable` encodes as these rows of its table."""
    pixels = np.stack(np.divmod(rows, 256), axis=-1).astype(np.uint8)
    return Images(pixels[:, None, None, :], None if labels is None else np.asarray(labels, np.int64))
