"""Trained models in files, over every registered model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import IntegrityError
from pipeline.models import MODELS, ModelConfig
from pipeline.models.weights import Trained, load_weights, save_weights
from pipeline.storage import load_arrays, save_arrays


def trained(name: str, beta: float | None = None) -> Trained:
    config = ModelConfig(name, "mlp", (1, 4, 5), 3, (8,))
    return Trained(config.build(), config, "blobs", beta)


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_model_and_the_same_bytes(name: str, tmp_path: Path) -> None:
    saved = trained(name, beta=4.0)
    save_weights(tmp_path / "a", saved)
    loaded = load_weights(tmp_path / "a")
    save_weights(tmp_path / "b", loaded)
    x = torch.rand(6, 1, 4, 5)
    assert torch.equal(saved.model.encode(x).mean, loaded.model.encode(x).mean)
    assert (loaded.config, loaded.dataset, loaded.beta) == (saved.config, "blobs", 4.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_predict_encodes_and_reconstructs_images() -> None:
    found = trained("vae").predict(torch.rand(6, 1, 4, 5).numpy())
    assert found["code"].shape == (6, 3)
    assert found["reconstruction"].shape == (6, 1, 4, 5)
    assert 0 <= found["reconstruction"].min() <= found["reconstruction"].max() <= 1


@pytest.mark.parametrize("wrong", [{"model": "gan"}, {"net": "unknown"}, {"image_shape": [1, 4, 6]}, {"hidden_dims": None}])
def test_weights_of_another_model_are_refused(wrong: dict, tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_weights(path, trained("ae"))
    arrays, header = load_arrays(path)
    save_arrays(path, arrays, header | {"config": header["config"] | wrong})
    with pytest.raises(IntegrityError, match="not weights of this version"):
        load_weights(path)


@pytest.mark.parametrize("value", [255.0, 1.001, -0.001, float("nan"), float("inf")])
def test_images_that_are_no_intensities_are_refused(value: float) -> None:
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    images = np.full((2, 1, 8, 8), 0.5, np.float32)
    trained = Trained(config.build(), config, "blobs", 1.0)
    assert trained.predict(images)["code"].shape == (2, 2)
    images[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=r"must be intensities in \[0, 1\]"):
        trained.predict(images)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (2, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    config = ModelConfig("ae", "mlp", (1, 8, 8), 2, (16, 8))
    with pytest.raises(ValueError, match=r"must have the shape \[N, 1, 8, 8\]"):
        Trained(config.build(), config, "blobs", None).predict(np.zeros(shape, np.float32))
